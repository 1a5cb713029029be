//! What is known about a setting besides its value.

use super::settings::DECLARATIONS;
use super::value::ValueError;

/// Everything about one setting but its value.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each named in a table"
)]
pub struct Declaration {
    /// The name in the file, and after `--` on the command line.
    pub name: &'static str,
    /// Where help and documentation list it.
    pub section: Section,
    /// What its values look like.
    pub kind: Kind,
    /// The flag of one letter.
    pub short: Option<char>,
    /// Other long flags: what gunicorn and uvicorn call it, without the dashes.
    pub aliases: &'static [&'static str],
    /// What gunicorn's configuration file calls it; empty if gunicorn does not have it.
    pub gunicorn: &'static str,
    /// Variables that are read besides [`Self::variable`].
    pub variables: &'static [&'static str],
    /// It is an argument without a flag.
    pub positional: bool,
    /// The file may set it.
    pub in_file: bool,
    /// The placeholder of its value in the help; empty for a switch.
    pub placeholder: &'static str,
    /// The text of the default; `None` if there is none.
    pub default: Option<&'static str>,
    /// What holds when there is no default, in words.
    pub otherwise: &'static str,
    /// A value for the sample file if there is no default.
    pub example: &'static str,
    /// Whether a reload (`SIGHUP`) applies a change.
    pub reload: bool,
    /// Only a master can do it: a program that serves in its own process has none.
    pub needs_master: bool,
    /// What it does.
    pub description: &'static str,
    /// What only the documentation says about it.
    pub details: &'static str,
    /// Whether the texts are a value of this setting.
    pub check: fn(&[String]) -> Result<(), ValueError>,
}

impl Declaration {
    /// What most declarations have in common.
    pub(super) const BASE: Self = Self {
        name: "",
        section: Section::Application,
        kind: Kind::Text,
        short: None,
        aliases: &[],
        gunicorn: "",
        variables: &[],
        positional: false,
        in_file: true,
        placeholder: "",
        default: None,
        otherwise: "",
        example: "",
        reload: true,
        needs_master: false,
        description: "",
        details: "",
        check: |_| Ok(()),
    };

    /// Its variable: `RSGUN_` and the name.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("RSGUN_{}", self.name.replace('-', "_").to_uppercase())
    }

    /// [`Self::description`] as one line.
    #[must_use]
    pub fn help(&self) -> String {
        self.description
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Finds a setting by the name that the file uses; `_` may stand for `-`.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        let name = name.replace('_', "-");
        DECLARATIONS
            .iter()
            .find(|declaration| declaration.name == name)
    }

    /// Finds a setting by the name that gunicorn's configuration file uses.
    pub(super) fn find_for_gunicorn(name: &str) -> Option<&'static Self> {
        DECLARATIONS
            .iter()
            .find(|declaration| !name.is_empty() && declaration.gunicorn == name)
    }

    /// The name of the setting that somebody may have meant who wrote `name`.
    pub(super) fn nearest(name: &str) -> Option<&'static str> {
        let name = name.replace('_', "-").to_lowercase();
        DECLARATIONS
            .iter()
            .filter(|declaration| declaration.in_file)
            .flat_map(|declaration| {
                let names = declaration
                    .aliases
                    .iter()
                    .chain(std::iter::once(&declaration.name));
                names.map(|alias| (likeness(alias, &name), declaration.name))
            })
            .filter(|(likeness, _)| *likeness > LIKE)
            .max_by(|left, right| left.0.total_cmp(&right.0))
            .map(|(_, name)| name)
    }
}

/// From which [`likeness`] on somebody may have meant another name.
const LIKE: f64 = 0.6;

fn likeness(one: &str, other: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(one, other)
}

/// Whether two names are so much alike that one may be a slip for the other.
#[must_use]
pub fn are_alike(one: &str, other: &str) -> bool {
    likeness(one, other) > LIKE
}

/// What the values of a setting look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One text.
    Text,
    /// A whole number.
    Number,
    /// A whole number, or a word that stands for one.
    Count,
    /// A number that may have a fraction.
    Decimal,
    /// The bits of a mode, in octal digits.
    Mask,
    /// On or off.
    Switch,
    /// Any number of texts.
    List,
}

/// The groups of settings, in the order of help and documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What is served.
    Application,
    /// Where it listens.
    Listening,
    /// The processes that serve it.
    Workers,
    /// How long things may take.
    Timeouts,
    /// What holds for WebSockets.
    WebSocket,
    /// What is written about it.
    Logging,
    /// How it runs as a service of the system.
    Service,
    /// Where settings come from.
    Configuration,
}

impl Section {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Application,
        Self::Listening,
        Self::Workers,
        Self::Timeouts,
        Self::WebSocket,
        Self::Logging,
        Self::Service,
        Self::Configuration,
    ];

    /// The heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Application => "Application",
            Self::Listening => "Listening",
            Self::Workers => "Workers",
            Self::Timeouts => "Time-outs",
            Self::WebSocket => "WebSocket",
            Self::Logging => "Logging",
            Self::Service => "Service",
            Self::Configuration => "Configuration",
        }
    }
}

//! Where to listen: one question that several settings answer.
//!
//! The strongest layer that says anything about it decides, and it must say it in one
//! way: `bind`, or `host` with `port`, or `uds`, or `fd`. A host and a port belong
//! together: if the deciding layer has only one of them, weaker layers that speak of
//! hosts and ports give the other, so that `--port 9000` keeps the host of the file.
//! Sockets that systemd has opened for this process count when no setting speaks; `PORT`,
//! which platforms set for whatever program they start, when there are none either.

use super::environment::{self, Environment, FIRST_SOCKET};
use super::error::ConfigError;
use super::layer::{Given, Layer, Layers, Origin};
use super::settings::Inputs;
use super::value;
use crate::listeners::{Address, DEFAULT_PORT};

/// The host when only a port is given, or nothing at all.
const DEFAULT_HOST: &str = "127.0.0.1";

/// The ways to say it; settings of one way do not contradict each other.
const WAYS: [&[&str]; 4] = [&["bind"], &["host", "port"], &["uds"], &["fd"]];
const HOST_AND_PORT: usize = 1;

/// The addresses that all layers together mean; never empty.
pub(super) fn addresses(
    layers: Layers<'_>,
    environment: &dyn Environment,
) -> Result<Vec<Address>, ConfigError> {
    let mut speaking = Vec::new();
    for layer in layers.0 {
        if let Some(way) = way_of(layer)? {
            speaking.push((way, *layer));
        }
    }
    let Some((way, deciding)) = speaking.first().copied() else {
        return otherwise(environment);
    };
    if way != HOST_AND_PORT {
        return one_way(deciding);
    }
    let pair: Vec<&Layer> = speaking
        .iter()
        .take_while(|(way, _)| *way == HOST_AND_PORT)
        .map(|(_, layer)| *layer)
        .collect();
    let inputs = Inputs::read(Layers(&pair))?;
    let host = inputs.host.unwrap_or_else(|| DEFAULT_HOST.to_owned());
    let port = inputs.port.unwrap_or(DEFAULT_PORT);
    // The host was read once already, so this only puts the two together.
    let address = Address::from_host_and_port(&host, port).map_err(|error| {
        let origin = Layers(&pair)
            .get("host")
            .map_or(Origin::Default { name: "host" }, |given| {
                given.origin.clone()
            });
        let error = value::ValueError {
            text: host,
            reason: error.to_string(),
        };
        ConfigError::invalid(origin, error)
    })?;
    Ok(vec![address])
}

/// The way in which a layer says where to listen, if it does.
fn way_of(layer: &Layer) -> Result<Option<usize>, ConfigError> {
    let mut found: Option<(usize, &Given)> = None;
    for (way, names) in WAYS.iter().enumerate() {
        let Some(given) = names.iter().find_map(|name| layer.get(name)) else {
            continue;
        };
        if let Some((_, first)) = found {
            return Err(ConfigError::Contradiction {
                first: Box::new(first.origin.clone()),
                second: Box::new(given.origin.clone()),
            });
        }
        found = Some((way, given));
    }
    Ok(found.map(|(way, _)| way))
}

/// The addresses of a layer that has `bind`, `uds` or `fd`.
fn one_way(layer: &Layer) -> Result<Vec<Address>, ConfigError> {
    let inputs = Inputs::read(Layers(&[layer]))?;
    let mut addresses = inputs.bind;
    addresses.extend(inputs.uds);
    addresses.extend(inputs.fd.map(Address::Fd));
    match layer.get("bind") {
        Some(given) if addresses.is_empty() => Err(ConfigError::NoAddress {
            origin: Box::new(given.origin.clone()),
        }),
        _ => Ok(addresses),
    }
}

/// The address when no setting names one.
fn otherwise(environment: &dyn Environment) -> Result<Vec<Address>, ConfigError> {
    const VARIABLE: &str = "PORT";
    let address = |host: &str, port| Address::Tcp {
        host: host.to_owned(),
        port,
    };
    let sockets = environment.sockets();
    if sockets > 0 {
        let numbers = (FIRST_SOCKET..).take(usize::from(sockets));
        return Ok(numbers.map(Address::Fd).collect());
    }
    let Some(text) = environment::read(environment, VARIABLE)? else {
        return Ok(vec![address(DEFAULT_HOST, DEFAULT_PORT)]);
    };
    match value::number(&[text], &(0..=u16::MAX)) {
        Ok(port) => Ok(vec![address("0.0.0.0", port)]),
        Err(error) => {
            let origin = Origin::Environment {
                variable: VARIABLE.to_owned(),
            };
            Err(ConfigError::invalid(origin, error))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;
    use std::path::PathBuf;

    use super::*;
    use crate::config::Source;
    use crate::config::case::{APP, case, command_line, resolve};

    #[test]
    fn without_any_address_it_is_this_machine_or_the_platform_s_port() {
        assert_eq!(case([APP], [], None).bind(), ["127.0.0.1:8000"]);
        assert_eq!(
            case([APP], [("PORT", "5000")], None).bind(),
            ["0.0.0.0:5000"]
        );
        assert_eq!(case([APP], [("PORT", "")], None).bind(), ["127.0.0.1:8000"]);
        let error = case([APP], [("PORT", "http")], None).error();
        assert_eq!(
            error,
            "the environment variable PORT: `http` is not a whole number from 0 to 65535"
        );
        let port = [("PORT", "5000")];
        assert_eq!(
            case([APP, ("host", "::")], port, None).bind(),
            ["[::]:8000"]
        );
        assert_eq!(case([APP], port, Some("bind = \":1\"")).bind(), [":1"]);
    }

    /// No variables, but sockets that were opened for this process.
    #[derive(Debug)]
    struct Activated(BTreeMap<String, OsString>);

    impl Environment for Activated {
        fn get(&self, name: &str) -> Option<OsString> {
            Environment::get(&self.0, name)
        }

        fn names(&self) -> Vec<String> {
            self.0.names()
        }

        fn sockets(&self) -> u16 {
            2
        }
    }

    #[test]
    fn sockets_of_systemd_are_taken_when_no_setting_names_an_address() {
        let bind = |flags: &[(&str, &str)]| {
            let environment = Activated([("PORT".to_owned(), "5000".into())].into());
            let source = Source::new(command_line(flags), environment, PathBuf::from("/"));
            resolve(&source).unwrap().bind
        };
        assert_eq!(bind(&[APP]), [Address::Fd(3), Address::Fd(4)]);
        assert_eq!(bind(&[APP, ("fd", "4")]), [Address::Fd(4)]);
    }

    #[test]
    fn the_strongest_layer_alone_says_where_to_listen() {
        let file = Some("bind = [\":1\", \"unix:/x\"]");
        assert_eq!(case([APP], [], file).bind(), [":1", "unix:/x"]);
        assert_eq!(case([APP, ("uds", "/y")], [], file).bind(), ["unix:/y"]);
        assert_eq!(case([APP, ("fd", "0")], [], file).bind(), ["fd://0"]);
        assert_eq!(case([APP, ("port", "0")], [], file).bind(), ["127.0.0.1:0"]);
        let variable = [("RSGUN_BIND", ":2, unix:@z")];
        assert_eq!(case([APP], variable, file).bind(), [":2", "unix:@z"]);
        let twice = [APP, ("bind", ":3"), ("bind", "[::1]:4")];
        assert_eq!(case(twice, variable, file).bind(), [":3", "[::1]:4"]);
    }

    #[test]
    fn host_and_port_complete_each_other() {
        let host = Some("host = \"0.0.0.0\"\nport = 80");
        assert_eq!(case([APP], [], host).bind(), ["0.0.0.0:80"]);
        assert_eq!(
            case([APP, ("port", "9000")], [], host).bind(),
            ["0.0.0.0:9000"]
        );
        assert_eq!(
            case([APP], [("RSGUN_HOST", "::1")], host).bind(),
            ["[::1]:80"]
        );
        let between = [("RSGUN_UDS", "/x")];
        assert_eq!(
            case([APP, ("port", "9")], between, host).bind(),
            ["127.0.0.1:9"]
        );
    }

    #[test]
    fn one_layer_must_not_say_it_in_two_ways() {
        let error = case([APP, ("bind", ":1"), ("port", "2")], [], None).error();
        assert!(
            error.starts_with("--bind and --port contradict each other"),
            "{error}"
        );
        let error = case([APP], [], Some("uds = \"/x\"\n\nfd = 3")).error();
        assert!(
            error.contains("line 1: uds and ") && error.contains("line 3: fd"),
            "{error}"
        );
        let error = case([APP], [], Some("bind = []")).error();
        assert!(error.contains("line 1: bind: is an empty list"), "{error}");
    }
}

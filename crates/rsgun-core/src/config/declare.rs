//! The macro that makes everything of the declarations of [`settings`](super::settings).

/// Generates [`Settings`], `Inputs` and [`DECLARATIONS`] from the entries.
macro_rules! declare {
    (
        settings {$(
            $(#[doc = $doc:literal])+
            $(#[serde($($serde:tt)+)])?
            $field:ident: $type:ty = $read:expr, { $($key:ident: $property:expr),+ $(,)? }
        )+}
        inputs {$(
            $(#[doc = $input_doc:literal])+
            $input:ident: $input_type:ty = $input_read:expr,
            { $($input_key:ident: $input_property:expr),+ $(,)? }
        )+}
    ) => {
        /// All settings, resolved: what every process works with.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Settings {
            /// Where to listen, never empty.
            pub bind: Vec<Address>,
            /// Who fork servers and workers run as, if not as the master does.
            pub run_as: Option<Credentials>,
            $(
                $(#[doc = $doc])+
                $(#[serde($($serde)+)])?
                pub $field: $type,
            )+
        }

        impl Settings {
            /// Reads every field from the layers.
            pub(super) fn read(
                layers: Layers<'_>,
                bind: Vec<Address>,
                run_as: Option<Credentials>,
            ) -> Result<Self, ConfigError> {
                Ok(Self {
                    bind,
                    run_as,
                    $($field: {
                        const DECLARATION: Declaration = Declaration {
                            $($key: $property,)+
                            ..Declaration::BASE
                        };
                        layers.value::<$type>(&DECLARATION, $read)?
                    },)+
                })
            }

            /// The names of those settings whose values are others than in `before`, and
            /// which a reload does not apply.
            #[must_use]
            pub fn unapplied(&self, before: &Self) -> Vec<&'static str> {
                let changed = [$((stringify!($field), self.$field != before.$field),)+];
                let changed = changed.into_iter().filter(|(_, is_changed)| *is_changed);
                changed
                    .filter_map(|(field, _)| Declaration::find(field))
                    .filter(|declaration| !declaration.reload)
                    .map(|declaration| declaration.name)
                    .collect()
            }
        }

        /// What only leads to a field of [`Settings`].
        #[derive(Debug)]
        pub(super) struct Inputs {
            $(pub(super) $input: $input_type,)+
        }

        impl Inputs {
            /// Reads every field from the layers.
            pub(super) fn read(layers: Layers<'_>) -> Result<Self, ConfigError> {
                Ok(Self {
                    $($input: {
                        const DECLARATION: Declaration = Declaration {
                            $($input_key: $input_property,)+
                            ..Declaration::BASE
                        };
                        layers.value::<$input_type>(&DECLARATION, $input_read)?
                    },)+
                })
            }
        }

        /// Everything that can be set.
        pub const DECLARATIONS: &[Declaration] = &[
            $(Declaration {
                $($input_key: $input_property,)+
                description: concat!($($input_doc),+),
                check: |texts| {
                    let read: fn(&[String]) -> Result<$input_type, ValueError> = $input_read;
                    read(texts).map(drop)
                },
                ..Declaration::BASE
            },)+
            $(Declaration {
                $($key: $property,)+
                description: concat!($($doc),+),
                check: |texts| {
                    let read: fn(&[String]) -> Result<$type, ValueError> = $read;
                    read(texts).map(drop)
                },
                ..Declaration::BASE
            },)+
        ];
    };
}

pub(super) use declare;

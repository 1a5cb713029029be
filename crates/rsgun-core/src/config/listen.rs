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

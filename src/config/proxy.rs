//! The proxy on the way to the platform: only ever for https, where it sees neither credentials nor answers.

use ureq::ProxyProtocol;
use ureq::http::Uri;

use super::api_url::has_possible_port;
use super::{ConfigError, Environment, value};
use crate::http::agents::Proxy;

/// In the order in which they are looked at; the first that is set counts.
const VARIABLES: [&str; 6] =
    ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
/// The hosts that are asked without it.
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The proxy for this API address, if one is set and the address is no exception.
pub(super) fn proxy(environment: Environment<'_>, api_url: &str) -> Result<Option<Proxy>, ConfigError> {
    let Some(api) = api_url.parse::<Uri>().ok().filter(|uri| uri.scheme_str() == Some("https")) else {
        return Ok(None);
    };
    let set = |name: &'static str| value(environment, name).map(|value| (name, value));
    let from_file = || Some((VARIABLES[0], environment.variable(VARIABLES[0])?));
    let Some((variable, address)) = VARIABLES.into_iter().find_map(set).or_else(from_file) else {
        return Ok(None);
    };
    if is_exception(environment, &api)? {
        return Ok(None);
    }
    // Its value is not shown: it may hold a password.
    let wrong = || {
        ConfigError(format!(
            "{variable}: must be the address of an http or https proxy, such as http://proxy.example.com:3128"
        ))
    };
    let address = address.into_string().map_err(|_| wrong())?;
    let server = ureq::Proxy::new(&address).map_err(|_| wrong())?;
    let speaks_http = matches!(server.protocol(), ProxyProtocol::Http | ProxyProtocol::Https);
    if !speaks_http || server.host().is_empty() || !has_possible_port(server.uri()) {
        return Err(wrong());
    }
    let scheme = server.protocol().to_string().to_lowercase();
    let name = format!("the proxy {scheme}://{}:{} ({variable})", server.host(), server.port());
    Ok(Some(Proxy { server, name }))
}

/// Whether the host stands in the list of exceptions. People write blanks behind its commas.
fn is_exception(environment: Environment<'_>, api: &Uri) -> Result<bool, ConfigError> {
    let set = |name: &'static str| value(environment, name).map(|value| (name, value));
    let Some((variable, list)) = EXCEPTIONS.into_iter().find_map(set) else { return Ok(false) };
    let list = list.into_string().map_err(|_| ConfigError(format!("{variable}: not UTF-8")))?;
    let hosts = list.split([',', ' ', '\t']).filter(|host| !host.is_empty());
    // Only what it makes of the list is used.
    let any = ureq::Proxy::builder(ProxyProtocol::Http);
    let any = hosts.fold(any, ureq::ProxyBuilder::no_proxy).build();
    Ok(any.is_ok_and(|any| any.is_no_proxy(api)))
}

//! Reads `metrics`: the address at which a zipper serves metrics and its health over HTTP.

use std::net::SocketAddr;

use crate::config::document::{Node, NodeValue};
use crate::config::reader::Problems;

const EXAMPLE: &str = "an IP address and a port, such as 127.0.0.1:9464";

/// The address, or a map of it with the permission to leave this machine. The pages name clients and
/// require no token, so another address than loopback is never the result of a typing error.
pub(super) fn read(node: &Node, problems: &mut Problems) -> Option<SocketAddr> {
    if !matches!(node.value, NodeValue::Map(_)) {
        let address = problems.scalar(node, "metrics", EXAMPLE)?;
        return check(node, problems, "metrics", address, false);
    }
    let section = problems.section(node, "metrics", &["address", "public"])?;
    let is_public = section.flag(problems, "public").unwrap_or(false);
    let Some(value) = section.get("address") else {
        let message = format!("`metrics.address`: the key is missing; expected {EXAMPLE}");
        problems.add(&node.span, message);
        return None;
    };
    let address = problems.scalar(value, "metrics.address", EXAMPLE)?;
    check(value, problems, "metrics.address", address, is_public)
}

fn check(
    node: &Node,
    problems: &mut Problems,
    path: &str,
    address: SocketAddr,
    is_public: bool,
) -> Option<SocketAddr> {
    if is_public || address.ip().to_canonical().is_loopback() {
        return Some(address);
    }
    let message = format!(
        "`{path}`: other machines may reach {address}, where no token is required; to permit it, \
         write `metrics: {{address: {address}, public: true}}`"
    );
    problems.add(&node.span, message);
    None
}

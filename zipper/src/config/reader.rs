//! Reads a configuration from a document, and collects every problem on the way.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use selvedge_client::lanes::PAYLOAD_MAX;
use selvedge_client::wire::TEXT_LEN_MAX;
use selvedge_client::wire::settlement::MESSAGE_DEPTH_MAX;
use selvedge_hub::Address;

use crate::config::document::{MapEntry, Node, NodeValue, SourceSpan};
use crate::config::error::{ConfigProblem, shorten, suggest};
use crate::config::{
    Auth, AuthToken, LimitsConfig, NeighbourConfig, ZipperConfig, metrics, permissions,
};
use crate::zipper::{FUNCTION_DEPTH, is_exposed};

/// Protocols of this build.
const SCHEMES: [&str; 5] = ["quic", "tcp", "tcp+plain", "udp", "udp+plain"];

/// A map of the document with its path, such as `limits`.
pub(super) struct Section<'a> {
    pub(super) path: String,
    entries: &'a [MapEntry],
    span: &'a SourceSpan,
}

/// The problems found so far.
#[derive(Default)]
pub(super) struct Problems(pub(super) Vec<ConfigProblem>);

/// Reads the whole configuration. It is to be used only if there is no problem.
pub(super) fn read(document: &Node, problems: &mut Problems) -> ZipperConfig {
    const KEYS: [&str; 10] = [
        "name", "identity", "listen", "host", "port", "auth", "mesh", "limits", "metrics", "log",
    ];
    let mut config = ZipperConfig::default();
    let Some(root) = problems.section(document, "", &KEYS) else {
        return config;
    };
    if let Some(name) = root.text(problems, "name", 1..=255, "edge") {
        config.name = name;
    }
    let identity = root.text(problems, "identity", 1..=4096, "node.key");
    config.identity = identity.map(Into::into);
    config.host = root.text(problems, "host", 1..=255, "0.0.0.0");
    config.port = root
        .number(problems, "port", 0..=65_535, 9000)
        .map(|port| port as u16);
    config.listen = root.get("listen").map(|node| listen(node, problems));
    let problems_before = problems.0.len();
    if let Some(node) = root.get("auth") {
        config.auth = auth(node, problems);
    }
    if config.auth == Auth::None && problems.0.len() == problems_before {
        check_exposure(&root, problems);
    }
    if let Some(node) = root.get("mesh") {
        config.mesh = mesh(node, problems);
    }
    if let Some(node) = root.get("limits") {
        config.limits = limits(node, problems);
    }
    if let Some(node) = root.get("metrics") {
        config.metrics = metrics::read(node, problems);
    }
    if let Some(node) = root.get("log") {
        let expected = "off, error, warn, info, debug or trace";
        config.log = problems.scalar(node, "log", expected);
    }
    if let (Some(listen), Some(short)) = (
        root.get("listen"),
        root.get("host").or_else(|| root.get("port")),
    ) {
        let message = "`host` and `port` are a short form of `listen`: give one or the other";
        let is_same_file = listen.span.source.is_file && short.span.source.is_file;
        let span = if is_same_file {
            &listen.span
        } else {
            &short.span
        };
        problems.add(span, message);
    } else if let Err(message) = config.addresses() {
        problems.add(root.get("host").map_or(root.span, |it| &it.span), message);
    }
    config
}

fn listen(node: &Node, problems: &mut Problems) -> Vec<Address> {
    let (mut addresses, mut known) = (Vec::new(), Vec::new());
    for item in problems.list(node, "listen", "[quic://0.0.0.0:9000]") {
        let Some(address) = problems.address(item, "listen") else {
            continue;
        };
        let text = address.to_string();
        let Some(socket) = address.as_socket() else {
            let message = format!(
                "`listen`: expected an IP address, such as quic://0.0.0.0:9000; found `{}`",
                shorten(&text)
            );
            problems.add(&item.span, message);
            continue;
        };
        if known.contains(&text) && socket.port() != 0 {
            problems.add(&item.span, format!("`listen`: `{text}` occurs twice"));
        } else if let Some(other) = addresses.iter().find(|other| share_port(other, &address)) {
            let (protocol, port) = (ip_protocol(&address), socket.port());
            let other = shorten(&other.to_string());
            let message =
                format!("`listen`: `{text}` and `{other}` both need {protocol} port {port}");
            problems.add(&item.span, message);
        }
        known.push(text);
        addresses.push(address);
    }
    addresses
}

/// The protocol below the transport of an address, which has the port.
fn ip_protocol(address: &Address) -> &'static str {
    match address.scheme() {
        "tcp" | "tcp+plain" => "TCP",
        _ => "UDP",
    }
}

/// Whether only one of two addresses can be bound. Port 0 is any free port.
fn share_port(one: &Address, other: &Address) -> bool {
    let (Some(a), Some(b)) = (one.as_socket(), other.as_socket()) else {
        return false;
    };
    let is_same_host = a.ip() == b.ip()
        || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    a.port() != 0 && a.port() == b.port() && is_same_host && ip_protocol(one) == ip_protocol(other)
}

/// Checks that other hosts reach no zipper that requires no token.
fn check_exposure(root: &Section<'_>, problems: &mut Problems) {
    let (key, nodes) = match (root.get("listen"), root.get("host")) {
        (Some(listen), _) => match &listen.value {
            NodeValue::List(items) => ("listen", items.as_slice()),
            _ => return,
        },
        (None, Some(host)) => ("host", std::slice::from_ref(host)),
        (None, None) => return,
    };
    let exposed = nodes.iter().find(|node| {
        let NodeValue::Scalar(text) = &node.value else {
            return false;
        };
        let address = match key {
            "host" => format!("tcp://{text}:0").parse(),
            _ => text.parse(),
        };
        address.is_ok_and(|address| check_scheme(&address).is_ok() && is_exposed(&address))
    });
    if let Some(node) = exposed {
        let found = node.describe();
        let message = format!(
            "`{key}`: other hosts can reach {found}, and `auth` requires no token; expected `auth: \
             {{type: token, token: SECRET}}`, or `auth: {{type: open}}` to admit every client"
        );
        problems.add(&node.span, message);
    }
}

fn auth(node: &Node, problems: &mut Problems) -> Auth {
    let first = problems.0.len();
    let auth = read_auth(node, problems);
    // Any line of this section may hold the token.
    for problem in problems.0.split_off(first) {
        problems.0.push(problem.without_excerpt());
    }
    auth
}

const AUTH_EXAMPLE: &str = "{type: token, token: SECRET}";

fn read_auth(node: &Node, problems: &mut Problems) -> Auth {
    if !matches!(node.value, NodeValue::Map(_)) {
        problems.add(
            &node.span,
            format!("`auth`: expected a map, such as {AUTH_EXAMPLE}"),
        );
        return Auth::None;
    }
    let known = ["type", "token", "tokens", "keys", "anyone"];
    let Some(section) = problems.section(node, "auth", &known) else {
        return Auth::None;
    };
    if section
        .get("type")
        .is_none_or(|it| it.describe() != "`permissions`")
    {
        for node in permissions::KEYS.iter().filter_map(|key| section.get(key)) {
            let message = "`auth`: `tokens`, `keys` and `anyone` require `type: permissions`";
            problems.add(&node.span, message);
        }
    }
    let kind = section.get("type");
    let token = section.get("token");
    match kind.map(|kind| (kind, kind.describe())) {
        Some((_, kind)) if kind == "`none`" || kind == "`open`" => {
            if let Some(token) = token {
                let kind = kind.trim_matches('`');
                let message =
                    format!("`auth.token`: not used with `type: {kind}`; expected `type: token`");
                problems.add(&token.span, message);
            }
            if kind == "`open`" {
                Auth::Open
            } else {
                Auth::None
            }
        }
        Some((_, kind)) if kind == "`permissions`" => {
            if let Some(token) = token {
                let message = "`auth.token`: not used with `type: permissions`; expected `tokens`";
                problems.add(&token.span, message);
            }
            permissions::read(&section, node, problems)
        }
        Some((_, kind)) if kind == "`token`" => read_token(node, token, problems),
        Some((kind, found)) => {
            let found = found.trim_matches('`');
            let hint = suggest(found, &["none", "token", "open", "permissions"]);
            let message = format!("`auth.type`: unknown type `{found}`; {hint}");
            problems.add(&kind.span, message);
            Auth::None
        }
        None => {
            let message = format!("`auth.type`: the key is missing; expected {AUTH_EXAMPLE}");
            problems.add(&node.span, message);
            Auth::None
        }
    }
}

fn read_token(node: &Node, token: Option<&Node>, problems: &mut Problems) -> Auth {
    let Some(token) = token else {
        let message = format!("`auth.token`: the key is missing; expected {AUTH_EXAMPLE}");
        problems.add(&node.span, message);
        return Auth::None;
    };
    match &token.value {
        NodeValue::Scalar(text) if (1..=TEXT_LEN_MAX).contains(&text.len()) => Auth::Token {
            token: AuthToken(text.clone()),
        },
        _ => {
            let message = "`auth.token`: expected a text of 1 to 1024 bytes";
            problems.add(&token.span, message);
            Auth::None
        }
    }
}

fn mesh(node: &Node, problems: &mut Problems) -> BTreeMap<String, NeighbourConfig> {
    const EXAMPLE: &str = "{region: {node: KEY, addresses: [quic://region.example:9000]}}";
    let mut mesh = BTreeMap::<String, NeighbourConfig>::new();
    for entry in problems.map(node, "mesh", EXAMPLE) {
        let name = &entry.key;
        let path = format!("mesh.{}", shorten(name));
        let Some(section) = problems.section(&entry.node, &path, &["node", "addresses"]) else {
            continue;
        };
        const NODE: &str = "the 64 hexadecimal digits that `zipper keygen --show FILE` prints";
        let Some(key) = section.get("node") else {
            let message = format!("`{path}.node`: the key is missing; expected {NODE}");
            problems.add(&entry.key_span, message);
            continue;
        };
        let node = problems.parsed(key, &format!("{path}.node"), NODE);
        let mut addresses = Vec::new();
        let addresses_path = format!("{path}.addresses");
        if let Some(list) = section.get("addresses") {
            for item in problems.list(list, &addresses_path, "[quic://region.example:9000]") {
                addresses.extend(problems.address(item, &addresses_path));
            }
        }
        let Some(node) = node else { continue };
        if let Some((other, _)) = mesh.iter().find(|(_, it)| it.node == node) {
            let message = format!("`{path}.node`: `{}` has the same key", shorten(other));
            problems.add(&key.span, message);
        }
        mesh.insert(name.clone(), NeighbourConfig { node, addresses });
    }
    mesh
}

fn limits(node: &Node, problems: &mut Problems) -> LimitsConfig {
    const KEYS: [&str; 7] = [
        "clients",
        "workers",
        "spin_us",
        "send_buffer_bytes",
        "message_max_bytes",
        "stalled_max",
        "function_depth",
    ];
    let mut limits = LimitsConfig::default();
    let Some(section) = problems.section(node, "limits", &KEYS) else {
        return limits;
    };
    if let Some(clients) = section.number(problems, "clients", 1..=65_536, 1024) {
        limits.clients = clients as usize;
    }
    let workers = section.number(problems, "workers", 1..=256, 1);
    if let Some(workers) = workers.and_then(|it| (it as usize).try_into().ok()) {
        limits.workers = workers;
    }
    if let Some(spin) = section.number(problems, "spin_us", 0..=50, 50) {
        limits.spin_us = spin;
    }
    let range = 64 << 10..=1 << 30;
    if let Some(bytes) = section.number(problems, "send_buffer_bytes", range, 16 << 20) {
        limits.send_buffer_bytes = bytes;
    }
    // The longest messages of settlement have to fit.
    let range = 64 << 10..=1 << 30;
    if let Some(bytes) = section.number(problems, "message_max_bytes", range, PAYLOAD_MAX as u64) {
        limits.message_max_bytes = bytes as usize;
    }
    if let Some(seconds) = section.number(problems, "stalled_max", 1..=3600, 10) {
        limits.stalled_max = seconds;
    }
    let range = 1..=u64::from(MESSAGE_DEPTH_MAX);
    let depth = section.number(problems, "function_depth", range, u64::from(FUNCTION_DEPTH));
    if let Some(depth) = depth.and_then(|it| it.try_into().ok()) {
        limits.function_depth = depth;
    }
    limits
}

impl Section<'_> {
    /// The value of a key, unless it is missing or empty.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let is_empty = matches!(entry.node.value, NodeValue::Null);
        (!is_empty).then_some(&entry.node)
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    pub(super) fn text(
        &self,
        problems: &mut Problems,
        key: &str,
        len: RangeInclusive<usize>,
        example: &str,
    ) -> Option<String> {
        let node = self.get(key)?;
        match &node.value {
            NodeValue::Scalar(text) if len.contains(&text.len()) => Some(text.clone()),
            _ => {
                let expected = format!(
                    "a text of {} to {} bytes, such as `{example}`",
                    len.start(),
                    len.end()
                );
                problems.unexpected(node, &self.path_of(key), &expected);
                None
            }
        }
    }

    pub(super) fn flag(&self, problems: &mut Problems, key: &str) -> Option<bool> {
        problems.scalar(self.get(key)?, &self.path_of(key), "`true` or `false`")
    }

    fn number(
        &self,
        problems: &mut Problems,
        key: &str,
        range: RangeInclusive<u64>,
        example: u64,
    ) -> Option<u64> {
        let node = self.get(key)?;
        let number = match &node.value {
            NodeValue::Scalar(text) => parse_number(text),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let expected = format!(
                "a number from {} to {}, such as {example}",
                range.start(),
                range.end()
            );
            problems.unexpected(node, &self.path_of(key), &expected);
        }
        number
    }
}

impl Problems {
    pub(super) fn add(&mut self, span: &SourceSpan, message: impl Into<String>) {
        self.0.push(ConfigProblem::at(span, message));
    }

    pub(super) fn unexpected(&mut self, node: &Node, path: &str, expected: &str) {
        let found = node.describe();
        self.add(
            &node.span,
            format!("`{path}`: expected {expected}; found {found}"),
        );
    }

    /// A map with known keys only.
    pub(super) fn section<'a>(
        &mut self,
        node: &'a Node,
        path: &str,
        known: &[&str],
    ) -> Option<Section<'a>> {
        let NodeValue::Map(entries) = &node.value else {
            match (path, &node.value) {
                (_, NodeValue::Null) => (),
                ("", _) => {
                    let found = node.describe();
                    let message = format!(
                        "expected a map of keys and values, such as `name: edge`; found {found}"
                    );
                    self.add(&node.span, message);
                }
                (path, _) => {
                    let expected = format!("a map with the keys `{}`", known.join("`, `"));
                    self.unexpected(node, path, &expected);
                }
            }
            return None;
        };
        let section = Section {
            path: path.to_owned(),
            entries,
            span: &node.span,
        };
        for entry in entries {
            if !known.contains(&entry.key.as_str()) {
                let path = section.path_of(&shorten(&entry.key));
                let hint = suggest(&entry.key, known);
                self.add(&entry.key_span, format!("unknown key `{path}`; {hint}"));
            }
        }
        Some(section)
    }

    /// A map whose keys are names.
    pub(super) fn map<'a>(&mut self, node: &'a Node, path: &str, example: &str) -> &'a [MapEntry] {
        match &node.value {
            NodeValue::Map(entries) => entries,
            _ => {
                self.unexpected(node, path, &format!("a map, such as {example}"));
                &[]
            }
        }
    }

    fn list<'a>(&mut self, node: &'a Node, path: &str, example: &str) -> &'a [Node] {
        match &node.value {
            NodeValue::List(items) => items,
            _ => {
                self.unexpected(node, path, &format!("a list, such as {example}"));
                &[]
            }
        }
    }

    /// A value whose error is what was expected.
    pub(super) fn scalar<T: FromStr>(
        &mut self,
        node: &Node,
        path: &str,
        expected: &str,
    ) -> Option<T> {
        let value = match &node.value {
            NodeValue::Scalar(text) => text.parse().ok(),
            _ => None,
        };
        if value.is_none() {
            self.unexpected(node, path, expected);
        }
        value
    }

    /// A value whose error is that of its parser.
    fn parsed<T: FromStr<Err: Display>>(
        &mut self,
        node: &Node,
        path: &str,
        expected: &str,
    ) -> Option<T> {
        match &node.value {
            NodeValue::Scalar(text) => match text.parse() {
                Ok(value) => return Some(value),
                Err(error) => {
                    let error = shorten_quoted(&error.to_string());
                    let message = format!("`{path}`: {error}; found {}", node.describe());
                    self.add(&node.span, message);
                }
            },
            _ => self.unexpected(node, path, expected),
        }
        None
    }

    /// An address of a protocol that this build has.
    fn address(&mut self, node: &Node, path: &str) -> Option<Address> {
        let expected = "an address, such as quic://192.0.2.1:9000";
        let address: Address = self.parsed(node, path, expected)?;
        match check_scheme(&address) {
            Ok(()) => Some(address),
            Err(message) => {
                self.add(&node.span, format!("`{path}`: {message}"));
                None
            }
        }
    }
}

/// Checks that this build has the protocol of an address.
///
/// # Errors
/// The protocols that this build has.
pub fn check_scheme(address: &Address) -> Result<(), String> {
    let scheme = address.scheme();
    if SCHEMES.contains(&scheme) {
        return Ok(());
    }
    let (known, scheme) = (SCHEMES.join(", "), shorten(scheme));
    Err(format!(
        "unknown protocol `{scheme}`; expected one of {known}"
    ))
}

fn parse_number(text: &str) -> Option<u64> {
    let digits = text.replace('_', "");
    match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => digits.parse().ok(),
    }
}

/// An error of a parser quotes the value, which may be long.
fn shorten_quoted(error: &str) -> String {
    let parts = error.split('`').enumerate();
    let parts = parts.map(|(at, part)| match at % 2 {
        0 => part.to_owned(),
        _ => shorten(part),
    });
    parts.collect::<Vec<_>>().join("`")
}

//! Which crate may use which: read from `cargo metadata` and `cargo tree`.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::{Violation, expect_none, root};

/// transport <- endpoint <- driver <- hub <- client <- zipper -> wasm-host. Each may be used by what stands
/// beside it; dev-dependencies, examples, benches and testkit are free.
const MAY_USE: [(&str, &[&str]); 7] = [
    ("selvedge-transport", &[]),
    ("selvedge-endpoint", &["selvedge-transport"]),
    (
        "selvedge-driver",
        &["selvedge-endpoint", "selvedge-transport"],
    ),
    ("selvedge-hub", &["selvedge-driver"]),
    ("selvedge-client", &["selvedge-hub"]),
    (
        "selvedge-zipper",
        &["selvedge-client", "selvedge-hub", "selvedge-wasm-host"],
    ),
    ("selvedge-wasm-host", &[]),
];
const BELOW_THE_ZIPPER: [&str; 5] = [
    "selvedge-client",
    "selvedge-transport",
    "selvedge-endpoint",
    "selvedge-driver",
    "selvedge-hub",
];
const FREE: [&str; 4] = [
    "selvedge-benches",
    "selvedge-endpoint-wasm",
    "selvedge-examples",
    "selvedge-testkit",
];

/// Runtimes, or the reactors and executors that they are made of.
const RUNTIMES: [&str; 9] = [
    "async-executor",
    "async-io",
    "async-std",
    "compio",
    "futures-executor",
    "glommio",
    "monoio",
    "smol",
    "tokio",
];

/// One dependency that a manifest states.
struct Edge {
    from: String,
    manifest: String,
    to: String,
    with_defaults: bool,
    features: Vec<String>,
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).arg("--offline").current_dir(root());
    let output = command.output().expect("cargo runs: it runs this test");
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

/// The workspace's packages.
pub(crate) fn packages() -> Vec<Value> {
    let json = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&json).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array();
    packages.expect("metadata lists packages").clone()
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A package's file or folder from the repository's root.
pub(crate) fn from_root(path: &str) -> String {
    let root = root();
    let from_root = path.strip_prefix(&*root.to_string_lossy()).unwrap_or(path);
    from_root.trim_start_matches(['/', '\\']).replace('\\', "/")
}

/// What manifests state, but for dev-dependencies.
fn edges() -> Vec<Edge> {
    let mut edges = Vec::new();
    for package in packages() {
        let dependencies = package["dependencies"].as_array().expect("a list");
        for dependency in dependencies.iter().filter(|d| text(d, "kind") != "dev") {
            let features = dependency["features"].as_array().expect("a list");
            edges.push(Edge {
                from: text(&package, "name").to_owned(),
                manifest: from_root(text(&package, "manifest_path")),
                to: text(dependency, "name").to_owned(),
                with_defaults: dependency["uses_default_features"] == true,
                features: features
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
            });
        }
    }
    edges
}

/// The first line of a manifest that names the dependency, or 1.
fn line_of(manifest: &str, dependency: &str) -> usize {
    let text = crate::source::read(manifest);
    let line = text.lines().position(|line| line.starts_with(dependency));
    line.map_or(1, |index| index + 1)
}

/// The names of every package that `package` is built with, without its dev-dependencies.
/// `features` is `--all-features`, or the like.
fn tree(package: &str, features: &str) -> Vec<String> {
    let format = ["--prefix", "none", "--format", "{p}"];
    let of = [
        "tree",
        "--edges",
        "normal,build",
        features,
        "--package",
        package,
    ];
    let lines = cargo(&[of.as_slice(), format.as_slice()].concat());
    let names = lines.lines().filter_map(|line| line.split(' ').next());
    let names: BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
    names.into_iter().map(str::to_owned).collect()
}

fn is_runtime(name: &str) -> bool {
    let of_family = |runtime: &str| {
        let rest = name.strip_prefix(runtime);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    RUNTIMES.into_iter().any(of_family)
}

#[test]
fn imports_between_our_crates_run_one_way() {
    let mut violations = Vec::new();
    for edge in edges()
        .iter()
        .filter(|edge| edge.to.starts_with("selvedge-"))
    {
        if FREE.contains(&edge.from.as_str()) {
            continue;
        }
        let row = MAY_USE.iter().find(|(from, _)| *from == edge.from);
        if !row.is_some_and(|(_, to)| to.contains(&edge.to.as_str())) {
            let line = line_of(&edge.manifest, &edge.to);
            let what = format!("{} may not use {}", edge.from, edge.to);
            violations.push(Violation::new(&edge.manifest, line, what));
        }
    }
    expect_none(
        &violations,
        "move the code to the layer that may, re-export what is missing from the layer below, or make it a dev-dependency",
    );
}

#[test]
fn every_crate_of_the_workspace_has_its_place_in_the_layers() {
    let mut violations = Vec::new();
    for package in packages() {
        let name = text(&package, "name");
        if !FREE.contains(&name) && !MAY_USE.iter().any(|(layer, _)| *layer == name) {
            let manifest = from_root(text(&package, "manifest_path"));
            violations.push(Violation::new(
                &manifest,
                1,
                format!("{name} is in no layer"),
            ));
        }
    }
    expect_none(
        &violations,
        "state in MAY_USE and in ARCHITECTURE.md what it may use",
    );
}

#[test]
fn no_async_runtime_is_below_the_zipper() {
    let mut violations = Vec::new();
    for layer in BELOW_THE_ZIPPER {
        let tree = tree(layer, "--all-features");
        assert!(
            tree.iter().any(|name| name == "bytes"),
            "{layer}'s tree reads as {tree:?}"
        );
        for runtime in tree.iter().filter(|name| is_runtime(name)) {
            let manifest = format!("{}/Cargo.toml", layer.trim_start_matches("selvedge-"));
            violations.push(Violation::new(
                &manifest,
                1,
                format!("{layer} is built with {runtime}"),
            ));
        }
    }
    expect_none(
        &violations,
        "`cargo tree -p LAYER -i RUNTIME` shows the way; turn the feature off or use another crate",
    );
}

/// What a program that embeds this crate must not compile.
fn expect_absent(package: &str, features: &str, absent: &[&str]) {
    let tree = tree(package, features);
    assert!(
        tree.iter().any(|name| name == "selvedge-hub"),
        "the tree of {package} reads as {tree:?}"
    );
    let manifest = format!("{}/Cargo.toml", package.trim_start_matches("selvedge-"));
    let found = tree.iter().filter(|name| {
        let is_absent = |absent: &&str| {
            name.strip_prefix(absent)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        absent.iter().any(is_absent)
    });
    let violations: Vec<_> = found
        .map(|name| Violation::new(&manifest, 1, format!("{package} is built with {name}")))
        .collect();
    expect_none(
        &violations,
        "`cargo tree -p PACKAGE -i DEPENDENCY` shows the path; make the dependency optional, behind a feature of the command",
    );
}

#[test]
fn a_native_source_or_function_compiles_no_engine_no_command_line_and_no_runtime() {
    let absent = [
        "clap",
        "httparse",
        "prometheus-client",
        "signal-hook",
        "sysinfo",
        "tokio",
        "tracing-subscriber",
        "wasmtime",
    ];
    expect_absent("selvedge-client", "--all-features", &absent);
}

#[test]
fn a_program_that_embeds_a_zipper_compiles_no_engine_and_no_command_line() {
    let absent = [
        "clap",
        "httparse",
        "prometheus-client",
        "signal-hook",
        "selvedge-wasm-host",
        "sysinfo",
        "tokio",
        "tracing-subscriber",
        "wasmtime",
    ];
    expect_absent("selvedge-zipper", "--no-default-features", &absent);
}

#[test]
fn the_zipper_reaches_sockets_only_through_the_hub() {
    let mut violations = Vec::new();
    for edge in edges().iter().filter(|edge| edge.from == "selvedge-zipper") {
        if edge.to == "mio" || edge.to == "socket2" || edge.to.starts_with("quinn") {
            let line = line_of(&edge.manifest, &edge.to);
            violations.push(Violation::new(
                &edge.manifest,
                line,
                format!("it uses {}", edge.to),
            ));
        }
    }
    expect_none(
        &violations,
        "use the hub's endpoints; a new kind of connection is a Transport",
    );
}

#[test]
fn the_endpoint_takes_the_transport_without_its_sockets() {
    let edges = edges();
    let mut way = edges
        .iter()
        .filter(|edge| edge.from == "selvedge-endpoint" && edge.to == "selvedge-transport");
    let edge = way
        .next()
        .expect("the endpoint uses the transport's vocabulary");
    assert!(
        !edge.with_defaults && edge.features.is_empty(),
        "{}:{}: write `default-features = false` and no features: `io` brings sockets",
        edge.manifest,
        line_of(&edge.manifest, &edge.to)
    );
}

#[test]
fn a_runtime_is_recognised_by_its_name() {
    assert!(is_runtime("tokio") && is_runtime("tokio-util") && is_runtime("async-std"));
    assert!(!is_runtime("smol_str") && !is_runtime("smallvec") && !is_runtime("mio"));
}

//! `zipper status` and `zipper ls`, against zippers with clients and a neighbour.

#[allow(dead_code, reason = "a part of it is used")]
mod support;

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Instant;

use selvedge_client::wire::AdminQuery;
use selvedge_client::{AdminClient, Client, ClientOptions, Connecting};
use selvedge_hub::{Driver, DriverConfig};
use selvedge_zipper::zipper::{Neighbour, Zipper};
use serde_json::{Value, json};

use crate::support::{
    IN, PATIENCE, function, options, plain_source, source, start, until_known, write,
};

/// Two zippers, of which the second dials the first.
fn pair() -> (Zipper, Zipper) {
    let (mut edge, mut region) = (options("edge"), options("region"));
    edge.mesh = vec![Neighbour {
        node: region.identity.node_id(),
        addresses: Vec::new(),
    }];
    let node = edge.identity.node_id();
    let edge = start(edge);
    let addresses = edge.addresses().to_vec();
    region.mesh = vec![Neighbour { node, addresses }];
    (edge, start(region))
}

fn run(zipper: &Zipper, args: &[&str]) -> Output {
    let address = zipper.addresses()[0].to_string();
    Command::new(env!("CARGO_BIN_EXE_zipper"))
        .args(args)
        .args(["-z", &address])
        .output()
        .expect("it starts")
}

/// The lines of a command, which must succeed.
fn lines(zipper: &Zipper, args: &[&str]) -> Vec<String> {
    let output = run(zipper, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    let stdout = String::from_utf8(output.stdout).expect("text");
    stdout.lines().map(str::to_owned).collect()
}

/// The rows of a list.
fn rows(zipper: &Zipper, list: &str) -> Vec<Value> {
    let lines = lines(zipper, &["ls", list, "--output", "json"]);
    let rows = lines.iter().map(|line| serde_json::from_str(line));
    rows.map(|row| row.expect("JSON")).collect()
}

#[test]
fn the_lists_show_clients_functions_tags_routes_neighbours_and_the_backlog() {
    let (edge, region) = pair();
    let there = function(&region, "there", IN);
    until_known(&edge, IN);
    let here = function(&edge, "here", IN);
    // Messages that are settled wait at their source, and not here.
    let source = plain_source(&edge);
    let named = |list: &str| {
        let rows = rows(&edge, list);
        let names = rows
            .iter()
            .map(|row| row["name"].as_str().map(str::to_owned));
        names.collect::<Option<Vec<_>>>().expect("each has a name")
    };
    let mut clients = named("clients");
    clients.sort_unstable();
    // The operator is a client, too.
    assert_eq!(clients, ["here", "source", "zipper-ls-clients"]);
    let functions = rows(&edge, "functions");
    assert_eq!(functions.len(), 1);
    let expected = json!({
        "name": "here", "node": functions[0]["node"], "tags": ["0x0010"], "target": "",
        "policy": "nearest", "when_slow": "hold", "connected": true, "dropped": 0,
    });
    assert_eq!(functions[0], expected);
    let tags = rows(&edge, "tags");
    let expected = json!({"tag": ["0x0010"], "functions": 2, "names": ["here", "there"]});
    assert_eq!(tags, [expected]);
    let node = region.node_id().to_string();
    let expected = json!({
        "name": "there", "tags": ["0x0010"], "target": "", "policy": "nearest",
        "when_slow": "hold", "home": node, "via": node, "hops": 1,
    });
    assert_eq!(rows(&edge, "routes"), [expected]);
    let neighbours = rows(&edge, "neighbours");
    assert_eq!(neighbours.len(), 1);
    assert_eq!(
        (&neighbours[0]["name"], &neighbours[0]["functions"]),
        (&"region".into(), &1.into())
    );
    assert!(lines(&edge, &["ls"])[0].starts_with("name "));
    let none = lines(&edge, &["ls", "--slow"]);
    assert_eq!(none, ["no function holds a source back"]);
    // The function reads nothing: what exceeds its receive window waits here.
    while source.try_write(IN, [7; 60_000]).is_ok() {}
    let slow = rows(&edge, "backlog");
    let slow: Vec<_> = slow.iter().map(|row| &row["name"]).collect();
    assert!(slow.contains(&&json!("here")), "{slow:?}");
    drop((here, there));
}

#[test]
fn the_status_shows_the_zipper_its_peers_and_its_counters() {
    let zipper = start(options("edge"));
    let function = function(&zipper, "f", IN);
    let source = source(&zipper);
    write(&source, IN, "a");
    support::read(&function);
    let line = &lines(&zipper, &["status", "--output", "json"])[0];
    let status: Value = serde_json::from_str(line).expect("JSON");
    for (field, expected) in [
        ("name", json!("edge")),
        ("node", json!(zipper.node_id().to_string())),
        ("clients", json!(3)),
        ("functions", json!(1)),
        ("received", json!(1)),
        ("delivered", json!(1)),
    ] {
        assert_eq!(status[field], expected, "{field} of {status}");
    }
    let text = lines(&zipper, &["status"]);
    let words: Vec<Vec<&str>> = text
        .iter()
        .map(|it| it.split_whitespace().collect())
        .collect();
    assert!(words.contains(&vec!["delivered", "1"]), "{text:?}");
}

#[test]
fn a_list_of_many_clients_is_complete() {
    let zipper = start(options("edge"));
    let driver = Arc::new(Driver::new(DriverConfig::default()).expect("a driver"));
    let connecting: Vec<_> = (0..300)
        .map(|n| {
            let addresses = zipper.addresses()[1..].to_vec();
            let options = ClientOptions {
                driver: Some(Arc::clone(&driver)),
                ..ClientOptions::source(format!("s{n}"), addresses)
            };
            Client::start(options).expect("the options are valid")
        })
        .collect();
    // More than a page.
    let connect = |mut client: Connecting| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(connected) = client.poll() {
                break connected.expect("it is admitted");
            }
            assert!(Instant::now() < deadline, "a client is not admitted");
            std::thread::yield_now();
        }
    };
    let clients: Vec<Client> = connecting.into_iter().map(connect).collect();
    let mut operator = AdminClient::from(source(&zipper));
    let rows = operator.list(AdminQuery::Clients, PATIENCE);
    let rows = rows.expect("it is permitted");
    let nodes: BTreeSet<_> = rows
        .iter()
        .map(|row| format!("{:?}", row.get("node")))
        .collect();
    assert_eq!((rows.len(), nodes.len()), (301, 301));
    drop(clients);
}

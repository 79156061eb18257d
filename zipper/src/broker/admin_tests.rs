//! Requests of operators, and their answers page by page.

use std::collections::BTreeSet;

use selvedge_client::wire::{CURSOR_LEN_MAX, InterestEntry, Policy, TEXT_LEN_MAX, WireMessage};

use super::*;
use crate::permissions::TagRange;

fn broker() -> std::sync::Arc<Broker> {
    Broker::for_tests()
}

fn ask(broker: &Broker, query: u8, after: Bytes) -> AdminReply {
    let request = AdminRequest {
        id: 5,
        query,
        after,
    };
    let reply = broker.answer(&request, &TagSet::all());
    let message = WireMessage::AdminReply(reply.clone());
    message.encode().expect("it is within the limits");
    reply
}

/// All rows, and the number of pages.
fn list(broker: &Broker, query: AdminQuery) -> (Vec<AdminRow>, usize) {
    let (mut list, mut pages, mut after) = (Vec::new(), 0, Bytes::new());
    loop {
        let AdminReply::Page { rows, next, .. } = ask(broker, query as u8, after) else {
            panic!("{query} is refused");
        };
        list.extend(rows);
        pages += 1;
        match next {
            Some(next) => after = next,
            None => return (list, pages),
        }
    }
}

#[test]
fn long_lists_are_complete_and_each_answer_is_within_the_limits() {
    let broker = broker();
    // The longest names and targets, and the most tags.
    let long = |n: usize| format!("{n:0>width$}", width = TEXT_LEN_MAX);
    for n in 0..200_usize {
        let function = FunctionSpec {
            instance: None,
            drops: None,
            name: long(n),
            tags: (0..10).map(|tag| Tag((n % 3 * 5 + tag) as u32)).collect(),
            target: Some(long(n)),
            policy: Policy::Nearest,
        };
        let mut node = [2; 32];
        node[0] = n as u8;
        broker.reroute(|router| router.add_function(node, function));
    }
    let entries = (0..300_usize).map(|n| InterestEntry {
        settled: None,
        drops: None,
        name: long(n / 2),
        tags: vec![Tag(100); 1000],
        target: n.is_multiple_of(2).then(|| long(n)),
        policy: Policy::All,
        path: vec![[9; 32]],
    });
    broker.reroute(|router| router.learn([9; 32], entries.collect()));
    for (query, count) in [
        (AdminQuery::Zipper, 1),
        (AdminQuery::Functions, 200),
        (AdminQuery::Tags, 21),
        (AdminQuery::Routes, 300),
        (AdminQuery::Clients, 0),
        (AdminQuery::Neighbours, 0),
        (AdminQuery::Backlog, 0),
    ] {
        let (rows, pages) = list(&broker, query);
        let unique: BTreeSet<String> = rows.iter().map(|row| format!("{row:?}")).collect();
        assert_eq!((rows.len(), unique.len()), (count, count), "{query}");
        assert!(count < 100 || pages > 1, "{query}: {pages} pages");
    }
}

#[test]
fn a_page_has_a_limit_for_its_rows_and_for_its_length() {
    let row = |len: usize| {
        let mut row = RowBuilder::default();
        row.text("a", &"x".repeat(len));
        row.0
    };
    let position = |n: usize| Bytes::from(vec![n as u8]);
    let items = |len| (0..300).map(move |n| (position(n), Some(row(len))));
    let (rows, next) = paged(1000, items(1));
    assert_eq!(
        (rows.len(), next),
        (PAGE_ROWS_MAX, Some(position(PAGE_ROWS_MAX - 1)))
    );
    let (rows, next) = paged(1000, items(1000));
    assert_eq!((rows.len(), next), (57, Some(position(56))));
    let (rows, next) = paged(300, (0..300).map(|n| (position(n), None)));
    assert_eq!((rows.len(), next), (0, Some(position(299))));
    assert_eq!(
        paged(301, (0..300).map(|n| (position(n), None))),
        (vec![], None)
    );
}

#[test]
fn requests_without_permission_of_unknown_kind_or_with_a_wrong_position_are_refused() {
    let broker = broker();
    let code = |reply| match reply {
        AdminReply::Refused { code, id: 5, .. } => code,
        other => panic!("{other:?}"),
    };
    let request = AdminRequest {
        id: 5,
        query: AdminQuery::Clients as u8,
        after: Bytes::new(),
    };
    let none = TagSet::default();
    assert_eq!(code(broker.answer(&request, &none)), FORBIDDEN);
    let some: TagSet = ["5".parse::<TagRange>().expect("a tag")]
        .into_iter()
        .collect();
    assert_eq!(code(broker.answer(&request, &some)), FORBIDDEN);
    assert_eq!(broker.counters.stats().forbidden_requests, 2);
    broker.reroute(|router| {
        for (node, tags) in [(2, vec![Tag(5), Tag(6)]), (3, vec![Tag(7)])] {
            let function = FunctionSpec {
                instance: None,
                drops: None,
                name: "f".into(),
                tags,
                target: None,
                policy: Policy::Nearest,
            };
            router.add_function([node; 32], function);
        }
    });
    for query in [AdminQuery::Functions, AdminQuery::Tags] {
        let query = query as u8;
        let request = AdminRequest {
            query,
            ..request.clone()
        };
        let AdminReply::Page {
            rows, next: None, ..
        } = broker.answer(&request, &some)
        else {
            panic!("a part is permitted");
        };
        let tags = AdminValue::Tags(vec![Tag(5)]);
        assert_eq!(rows.len(), 1);
        assert!(
            rows[0].fields.iter().any(|(_, value)| *value == tags),
            "{rows:?}"
        );
    }
    assert_eq!(code(ask(&broker, 200, Bytes::new())), UNKNOWN);
    for query in [AdminQuery::Clients, AdminQuery::Tags, AdminQuery::Routes] {
        assert_eq!(
            code(ask(&broker, query as u8, Bytes::from_static(b"?"))),
            INVALID
        );
    }
}

#[test]
fn the_position_of_a_route_is_read_again() {
    let long = "x".repeat(TEXT_LEN_MAX);
    for target in [None, Some(""), Some(&*long)] {
        let position = (&*long, target, [7; 32]);
        let cursor = route_cursor(position);
        assert!(cursor.len() <= CURSOR_LEN_MAX);
        let read = route_position(&cursor).flatten().expect("it is valid");
        assert_eq!(read.as_position(), position);
        for cut in 1..32 + 2 + TEXT_LEN_MAX {
            assert!(route_position(&cursor.slice(..cut)).is_none());
        }
    }
}

//! Clients that a zipper does not admit, at once or for good.

mod support;

use std::thread::JoinHandle;
use std::time::Duration;

use selvedge_client::wire::Rejection;
use selvedge_client::wire::settlement::FEATURE_SETTLEMENT;
use selvedge_client::{Client, ClientOptions, ConnectError};

use support::{PATIENCE, ScriptedZipper};

fn connect(zipper: &ScriptedZipper, timeout: Duration) -> JoinHandle<Result<Client, ConnectError>> {
    let options = ClientOptions {
        timeout,
        ..ClientOptions::source("source", zipper.addresses())
    };
    std::thread::spawn(|| Client::connect(options))
}

#[test]
fn a_client_that_is_throttled_or_finds_no_room_tries_again_until_it_is_admitted() {
    for rejection in [Rejection::Throttled, Rejection::Full] {
        let zipper = ScriptedZipper::new();
        let connecting = connect(&zipper, PATIENCE);
        for _ in 0..2 {
            zipper.reject(rejection);
        }
        let _link = zipper.admit(FEATURE_SETTLEMENT);
        let client = connecting.join().expect("it does not panic");
        client.expect("it is admitted");
    }
}

#[test]
fn a_client_with_a_wrong_token_does_not_try_again() {
    let zipper = ScriptedZipper::new();
    let connecting = connect(&zipper, Duration::MAX);
    zipper.reject(Rejection::Unauthorized);
    let result = connecting.join().expect("it does not panic");
    assert!(
        matches!(result, Err(ConnectError::Rejected { code: 401, .. })),
        "{result:?}"
    );
}

#[test]
fn the_answer_of_a_zipper_is_reported_although_the_last_attempt_has_not_ended_in_time() {
    let zipper = ScriptedZipper::new();
    let connecting = connect(&zipper, Duration::from_secs(2));
    zipper.reject(Rejection::Full);
    let _silent = zipper.accept();
    let result = connecting.join().expect("it does not panic");
    assert!(
        matches!(result, Err(ConnectError::Rejected { code: 503, .. })),
        "{result:?}"
    );
}

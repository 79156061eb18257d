//! A native source: writes five temperatures in Celsius, and an empty message as the end mark.
//!
//! `cargo run -p selvedge-examples --example source -- 127.0.0.1:9000`
#![allow(clippy::print_stdout, reason = "this program prints")]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use selvedge_client::{Client, ClientOptions, Tag, addresses};

const CELSIUS: Tag = Tag(0x10);

fn run() -> Result<(), Box<dyn Error>> {
    let zipper = std::env::args().nth(1).ok_or("usage: source ADDRESS")?;
    let client = Client::connect(ClientOptions::source("thermometer", addresses(&zipper)?))?;
    for celsius in [-40, 0, 20, 37, 100] {
        client.write(CELSIUS, celsius.to_string())?;
    }
    client.write(CELSIUS, "")?;
    // Blocks until functions have processed every message.
    if !client.close(Duration::from_secs(10)) {
        let outcomes = client.outcomes();
        let lost = outcomes.unsettled() + outcomes.total().abandoned();
        return Err(format!("{lost} messages were not processed").into());
    }
    println!("source: functions have processed all messages");
    Ok(())
}

fn main() -> ExitCode {
    let Err(error) = run() else {
        return ExitCode::SUCCESS;
    };
    eprintln!("source: {error}");
    ExitCode::FAILURE
}

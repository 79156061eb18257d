//! A native sink: prints the temperatures on tag 0x11 until the end mark.
//!
//! `cargo run -p selvedge-examples --example sink -- 127.0.0.1:9000`
#![allow(clippy::print_stdout, reason = "this program prints")]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use selvedge_client::{Client, ClientOptions, ReadError, Tag, addresses};

const FAHRENHEIT: Tag = Tag(0x11);

fn run() -> Result<(), Box<dyn Error>> {
    let zipper = std::env::args().nth(1).ok_or("usage: sink ADDRESS")?;
    let options = ClientOptions::function("display", vec![FAHRENHEIT], addresses(&zipper)?);
    let client = Client::connect(options)?;
    println!("sink: subscribed");
    loop {
        match client.read_timeout(Duration::from_secs(60)) {
            Ok(message) if message.payload.is_empty() => break,
            Ok(message) => println!("{} °F", String::from_utf8_lossy(&message.payload)),
            Err(ReadError::TimedOut) => return Err("no message for 60 s".into()),
            Err(error) => return Err(error.into()),
        }
    }
    // Nothing is left to be sent, so this only ends the connection.
    let _is_delivered = client.close(Duration::from_secs(10));
    Ok(())
}

fn main() -> ExitCode {
    let Err(error) = run() else {
        return ExitCode::SUCCESS;
    };
    eprintln!("sink: {error}");
    ExitCode::FAILURE
}

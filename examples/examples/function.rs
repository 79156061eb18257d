//! A native stream function: converts Celsius on tag 0x10 to Fahrenheit on tag 0x11.
//!
//! `cargo run -p selvedge-examples --example function -- 127.0.0.1:9000`
#![allow(clippy::print_stdout, reason = "this program prints")]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use selvedge_client::{Client, ClientOptions, Tag, addresses};

const CELSIUS: Tag = Tag(0x10);
const FAHRENHEIT: Tag = Tag(0x11);

fn run() -> Result<(), Box<dyn Error>> {
    let zipper = std::env::args().nth(1).ok_or("usage: function ADDRESS")?;
    let options = ClientOptions::function("to-fahrenheit", vec![CELSIUS], addresses(&zipper)?);
    let client = Client::connect(options)?;
    println!("function: subscribed");
    let mut message = client.read()?.payload;
    while !message.is_empty() {
        let celsius: i32 = std::str::from_utf8(&message)?.parse()?;
        client.write(FAHRENHEIT, (celsius * 9 / 5 + 32).to_string())?;
        message = client.read()?.payload;
    }
    client.write(FAHRENHEIT, "")?;
    let is_delivered = client.close(Duration::from_secs(10));
    is_delivered
        .then_some(())
        .ok_or_else(|| "not all results were processed".into())
}

fn main() -> ExitCode {
    let Err(error) = run() else {
        return ExitCode::SUCCESS;
    };
    eprintln!("function: {error}");
    ExitCode::FAILURE
}

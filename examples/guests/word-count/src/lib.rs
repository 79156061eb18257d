//! Counts words until the stream ends: 0x21 (words) -> 0x22 (table).
//!
//! Takes words separated by newlines and counts them in its memory. An empty message ends the stream:
//! then the table leaves as `sort | uniq -c` prints it, in byte order, `%7d word` a line, in messages
//! of at most 32 KiB that end at a line's end (a longer word has a message of its own), followed by
//! an empty message. Then counting begins anew.
//!
//! The host's limits bound the table: 64 MiB of memory, 4 MiB and 1000 messages of output.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write as _;

/// Words separated by newlines.
const WORDS: u32 = 0x21;
/// Lines of the table.
const TABLE: u32 = 0x22;
/// Bytes of the table in one message.
const MESSAGE_BYTES_MAX: usize = 32 << 10;

type Counts = HashMap<Box<[u8]>, u64>;

thread_local! {
    static COUNTS: RefCell<Counts> = RefCell::new(Counts::new());
}

/// How many tags this function observes.
#[unsafe(no_mangle)]
pub extern "C" fn observe_count() -> i32 {
    1
}

/// The tag that this function observes.
#[unsafe(no_mangle)]
pub extern "C" fn observe_at(_index: i32) -> u32 {
    WORDS
}

/// Handles one message; never fails.
#[unsafe(no_mangle)]
pub extern "C" fn handle(_tag: u32, _pointer: *const u8, len: usize) -> i32 {
    if len > 0 {
        COUNTS.with_borrow_mut(|counts| core_guest::with_input(len, |words| count(counts, words)));
    } else {
        let counts = COUNTS.take();
        for message in table(counts) {
            core_guest::emit(TABLE, &message);
        }
        core_guest::emit(TABLE, &[]);
    }
    0
}

fn count(counts: &mut Counts, words: &[u8]) {
    for word in words
        .split(|byte| *byte == b'\n')
        .filter(|word| !word.is_empty())
    {
        match counts.get_mut(word) {
            Some(count) => *count += 1,
            None => drop(counts.insert(word.into(), 1)),
        }
    }
}

fn table(counts: Counts) -> Vec<Vec<u8>> {
    let mut rows: Vec<(Box<[u8]>, u64)> = counts.into_iter().collect();
    rows.sort_unstable();
    let mut messages = Vec::new();
    let mut message = Vec::new();
    let mut line = Vec::new();
    for (word, count) in rows {
        line.clear();
        // Writing to memory cannot fail.
        let _ = write!(line, "{count:7} ");
        line.extend_from_slice(&word);
        line.push(b'\n');
        if !message.is_empty() && message.len() + line.len() > MESSAGE_BYTES_MAX {
            messages.push(std::mem::take(&mut message));
        }
        message.extend_from_slice(&line);
    }
    if !message.is_empty() {
        messages.push(message);
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_sort_and_uniq_print() {
        let mut counts = Counts::new();
        count(&mut counts, b"to\nbe\nor\nnot\nto\nbe");
        assert_eq!(
            table(counts),
            [b"      2 be\n      1 not\n      1 or\n      2 to\n".to_vec()]
        );
    }

    #[test]
    fn messages_are_cut_at_lines() {
        let words = (0..5000).map(|n| format!("word{n}\n")).collect::<String>();
        let mut counts = Counts::new();
        count(&mut counts, words.as_bytes());
        let messages = table(counts);
        assert!(messages.len() > 1);
        assert!(
            messages
                .iter()
                .all(|m| m.len() <= MESSAGE_BYTES_MAX && m.ends_with(b"\n"))
        );
    }
}

//! Splits text into words: 0x20 (text) -> 0x21 (words).
//!
//! A word is a maximal run of ASCII letters, lower-cased, as
//! `tr -cs 'A-Za-z' '\n' | tr A-Z a-z` has it. Each message is taken by itself: its end ends a word.
//! A message with words gives one message, the words separated by newlines. A message without words
//! gives none. An empty message is the end of the stream and is passed on as it is.

/// Lines or chunks of text.
const TEXT: u32 = 0x20;
/// Their words.
const WORDS: u32 = 0x21;

/// How many tags this function observes.
#[unsafe(no_mangle)]
pub extern "C" fn observe_count() -> i32 {
    1
}

/// The tag that this function observes.
#[unsafe(no_mangle)]
pub extern "C" fn observe_at(_index: i32) -> u32 {
    TEXT
}

/// Handles one message; never fails.
#[unsafe(no_mangle)]
pub extern "C" fn handle(_tag: u32, _pointer: *const u8, len: usize) -> i32 {
    let words = core_guest::with_input(len, split);
    if !words.is_empty() || len == 0 {
        core_guest::emit(WORDS, &words);
    }
    0
}

fn split(text: &[u8]) -> Vec<u8> {
    let mut words = Vec::with_capacity(text.len());
    for word in text.split(|byte| !byte.is_ascii_alphabetic()) {
        if word.is_empty() {
            continue;
        }
        if !words.is_empty() {
            words.push(b'\n');
        }
        words.extend(word.iter().map(u8::to_ascii_lowercase));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_are_maximal_runs_of_ascii_letters_lower_cased() {
        assert_eq!(
            split(b"--To be, or NOT to be: that's 2B\xc3\xa9\n"),
            b"to\nbe\nor\nnot\nto\nbe\nthat\ns\nb"
        );
        assert_eq!(split(b"123 ?!"), b"");
    }
}

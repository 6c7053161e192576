//! Text for people that commands no terminal: names of files and words of peers may hold anything.

use std::fmt;

/// Returns a text without control characters: an escape stands for each.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Writes what is visible of a text.
pub(crate) struct Visible<W>(pub(crate) W);

impl<W: fmt::Write> fmt::Write for Visible<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&visible(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_commands_a_terminal_is_escaped() {
        let check = |text: &str, shown: &str| assert_eq!(visible(text), shown);
        check("naïve … \u{1f980} \\n", "naïve … \u{1f980} \\n");
        check("\x1b[2J\x07\x7f\r\n\t", r"\u{1b}[2J\u{7}\u{7f}\r\n\t");
        check("\u{9b}2J", r"\u{9b}2J");
    }
}

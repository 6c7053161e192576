//! Just enough of Rust's grammar to see which paths a file names: words, `::` and punctuation,
//! with comments and literals gone, then every path written out in full with the module it is in.
//!
//! It deliberately does not know types, macros' meaning or name resolution: a rule that needs those
//! belongs into a lint.

/// A word, `::`, or one character of punctuation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    pub(super) line: usize,
}

impl Token<'_> {
    fn is_word(&self) -> bool {
        self.text.starts_with(is_word_char)
    }
}

/// Splits a source file; comments, literals and lifetimes are left out.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut line = 1;
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        let literal = literal_len(rest);
        let (len, kept) = match first {
            _ if literal.is_some() => (literal.unwrap_or_default(), false),
            _ if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            _ if rest.starts_with("/*") => (block_comment_len(rest), false),
            _ if rest.starts_with("::") => (2, true),
            _ if is_word_char(first) => {
                let len = rest.find(|c| !is_word_char(c)).unwrap_or(rest.len());
                (len, !first.is_ascii_digit())
            }
            _ => (first.len_utf8(), !first.is_whitespace()),
        };
        if kept {
            found.push(Token { text: &rest[..len], line });
        }
        line += rest[..len].matches('\n').count();
        at += len;
    }
    found
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Length of the string, character or lifetime that `rest` begins with.
fn literal_len(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r"].into_iter().find(|p| {
        rest.strip_prefix(p).is_some_and(|r| r.trim_start_matches('#').starts_with(['"', '\'']))
    });
    let prefix = prefix.unwrap_or("");
    let body = &rest[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let text = body[hashes..].strip_prefix('"')?;
        return Some(prefix.len() + hashes + 1 + text.find(&end)? + end.len());
    }
    match body.chars().next()? {
        '"' => Some(prefix.len() + quoted_len(body, '"')),
        '\'' => {
            let mut after = body[1..].chars();
            let (one, two) = (after.next()?, after.next());
            let is_char = one == '\\' || two == Some('\'');
            let lifetime = || body[1..].find(|c| !is_word_char(c)).map_or(body.len(), |n| n + 1);
            Some(prefix.len() + if is_char { quoted_len(body, '\'') } else { lifetime() })
        }
        _ => None,
    }
}

fn quoted_len(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    body.len()
}

/// One path as the code means it: `crate`, `self` and `super` are resolved to an absolute path that
/// begins with `crate`; all else stays as written.
#[derive(Debug)]
pub(super) struct PathUse {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    /// Inside an item under `#[cfg(test)]`.
    pub(super) in_test: bool,
}

/// Lists every path in a file whose own module path (below `crate`) is `module`.
pub(super) fn paths(tokens: &[Token<'_>], module: &[&str]) -> Vec<PathUse> {
    let mut walk = Walk { tokens, found: Vec::new(), module, scopes: Vec::new(), pending: None };
    for at in 0..tokens.len() {
        walk.step(at);
    }
    walk.found
}

/// An open bracket: the module it opens, if it does, and whether it is test code.
struct Scope<'a> {
    module: Option<&'a str>,
    test: bool,
}

struct Walk<'a> {
    tokens: &'a [Token<'a>],
    found: Vec<PathUse>,
    module: &'a [&'a str],
    scopes: Vec<Scope<'a>>,
    /// Depth at which `#[cfg(test)]` waits for its item to begin or end.
    pending: Option<usize>,
}

impl<'a> Walk<'a> {
    fn text(&self, at: usize) -> &'a str {
        self.tokens.get(at).map_or("", |token| token.text)
    }

    fn in_test(&self) -> bool {
        self.pending.is_some() || self.scopes.last().is_some_and(|scope| scope.test)
    }

    fn step(&mut self, at: usize) {
        match self.text(at) {
            "{" | "(" | "[" => {
                let names_module = at >= 2 && self.text(at) == "{" && self.text(at - 2) == "mod";
                let module = names_module.then(|| self.text(at - 1));
                let test = self.in_test();
                if self.text(at) == "{" && self.pending == Some(self.scopes.len()) {
                    self.pending = None;
                }
                self.scopes.push(Scope { module, test });
            }
            "}" | ")" | "]" => drop(self.scopes.pop()),
            ";" | "," if self.pending == Some(self.scopes.len()) => self.pending = None,
            "#" if self.is_cfg_test(at) => self.pending = Some(self.scopes.len()),
            _ => self.path_at(at),
        }
    }

    fn is_cfg_test(&self, at: usize) -> bool {
        let attribute: Vec<&str> =
            (at..self.tokens.len()).map(|n| self.text(n)).take_while(|text| *text != "]").collect();
        attribute.get(2) == Some(&"cfg")
            && attribute.contains(&"test")
            && !attribute.contains(&"not")
    }

    fn path_at(&mut self, at: usize) {
        let before = if at == 0 { "" } else { self.text(at - 1) };
        // Inside a `use` group the outer path has already been written out.
        if self.tokens[at].is_word() && !matches!(before, "::" | ".") && !self.in_group(at) {
            self.expand(at, &mut Vec::new());
        }
    }

    fn in_group(&self, at: usize) -> bool {
        let mut depth = 0_usize;
        for n in (0..at).rev() {
            match self.text(n) {
                "}" => depth += 1,
                "{" if depth > 0 => depth -= 1,
                "{" if n > 0 && self.text(n - 1) == "::" => return true,
                "{" | ";" => return false,
                _ => {}
            }
        }
        false
    }

    /// Follows one path from `at` through its groups; returns the place after it.
    fn expand(&mut self, mut at: usize, prefix: &mut Vec<String>) -> usize {
        let kept = prefix.len();
        loop {
            let line = self.tokens[at].line;
            if self.text(at) == "{" {
                at += 1;
                while at < self.tokens.len() && self.text(at) != "}" {
                    at = self.expand(at, prefix);
                    while at < self.tokens.len() && !matches!(self.text(at), "," | "}") {
                        at += 1; // `as name`
                    }
                    at += usize::from(self.text(at) == ",");
                }
                prefix.truncate(kept);
                return at + 1;
            }
            prefix.push(self.text(at).to_owned());
            let next = self.text(at + 2);
            if self.text(at + 1) != "::" || !(next == "{" || next == "*" || starts_word(next)) {
                let segments = self.resolve(prefix);
                self.found.push(PathUse { segments, line, in_test: self.in_test() });
                prefix.truncate(kept);
                return at + 1;
            }
            at += 2;
        }
    }

    fn resolve(&self, segments: &[String]) -> Vec<String> {
        let ups = segments.iter().take_while(|s| matches!(s.as_str(), "self" | "super")).count();
        let relative = match segments[0].as_str() {
            // A lone `self` is a method's receiver.
            "self" => segments.len() > 1,
            "super" => true,
            _ => false,
        };
        if !relative {
            return segments.to_vec();
        }
        let inline = self.scopes.iter().filter_map(|scope| scope.module);
        let mut here: Vec<&str> = self.module.iter().copied().chain(inline).collect();
        for segment in &segments[..ups] {
            if segment == "super" {
                here.pop();
            }
        }
        let rest = segments[ups..].iter().map(String::as_str);
        ["crate"].into_iter().chain(here).chain(rest).map(str::to_owned).collect()
    }
}

fn starts_word(text: &str) -> bool {
    text.starts_with(is_word_char)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_tokens(source: &str, expected: &[&str]) {
        let texts: Vec<&str> = tokens(source).iter().map(|token| token.text).collect();
        assert_eq!(texts, expected, "{source}");
    }

    fn check_paths(module: &[&str], source: &str, expected: &[&str]) {
        let found: Vec<String> = paths(&tokens(source), module)
            .iter()
            .map(|path| path.segments.join("::") + if path.in_test { " (test)" } else { "" })
            .filter(|path| path.contains("::"))
            .collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn comments_literals_and_lifetimes_are_no_words() {
        check_tokens("a // b\nc", &["a", "c"]);
        check_tokens("a /* b /* c */ d */ e", &["a", "e"]);
        check_tokens(r#"a "b \" c" d"#, &["a", "d"]);
        check_tokens(r##"a r#"b " c"# d br"e" f"##, &["a", "d", "f"]);
        check_tokens(r"a 'b' '\'' '“' c", &["a", "c"]);
        check_tokens("f<'a>(b'c')", &["f", "<", ">", "(", ")"]);
        check_tokens("r#type x.0 1_u8", &["r", "#", "type", "x", "."]);
        check_tokens("a::b", &["a", "::", "b"]);
    }

    #[test]
    fn lines_are_counted_over_literals() {
        let source = "a /*\n*/ \"\n\" b";
        assert_eq!(tokens(source).last(), Some(&Token { text: "b", line: 3 }));
    }

    #[test]
    fn groups_are_written_out() {
        check_paths(
            &["dag"],
            "use crate::{block::{self, Cid as C}, store::*}; x(a::b)",
            &["crate::block::self", "crate::block::Cid", "crate::store::*", "a::b"],
        );
    }

    #[test]
    fn relative_paths_are_resolved() {
        check_paths(&["dag"], "use super::vfs::A;", &["crate::vfs::A"]);
        check_paths(
            &["dag", "fetch"],
            "self::a(super::b())",
            &["crate::dag::fetch::a", "crate::dag::b"],
        );
        check_paths(&["dag"], "mod inner { use super::b; }", &["crate::dag::b"]);
        check_paths(&["dag"], "mod inner { use super::super::vfs; }", &["crate::vfs"]);
    }

    #[test]
    fn test_code_is_told_apart() {
        check_paths(
            &["dag"],
            "a::b; #[cfg(test)] mod tests { use c::d; fn f() {} e::f; } g::h;",
            &["a::b", "c::d (test)", "e::f (test)", "g::h"],
        );
        check_paths(&["dag"], "#[cfg(test)] use a::{b}; c::d;", &["a::b (test)", "c::d"]);
        check_paths(&["dag"], "#[cfg(not(test))] use a::b;", &["a::b"]);
        check_paths(
            &["dag"],
            "#[cfg(test)] fn f(a: A, b: c::D) {} e::f;",
            &["c::D (test)", "e::f"],
        );
    }
}

//! What is written to standard output: columns, names, sizes.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal as _, Write};

/// Rows that are aligned with each other; beyond that a listing is written in batches, so that a
/// directory of a million names needs no memory.
const ROWS_ALIGNED_MAX: usize = 1000;

/// Standard output, buffered; control characters in names are escaped on a terminal only, so that
/// a name goes through a pipe as it is.
#[derive(Debug)]
pub(crate) struct Output {
    /// `None` writes nothing.
    inner: Option<BufWriter<Stdout>>,
    escapes: bool,
}

impl Output {
    /// Returns standard output.
    pub(crate) fn new() -> Self {
        let escapes = io::stdout().is_terminal();
        Self { inner: Some(BufWriter::new(Stdout)), escapes }
    }

    /// Returns an output that writes nothing.
    pub(crate) fn muted() -> Self {
        Self { inner: None, escapes: false }
    }

    /// Writes a line of bytes.
    pub(crate) fn line(&mut self, line: impl AsRef<[u8]>) -> io::Result<()> {
        let shown = self.shown(line.as_ref());
        let Some(inner) = &mut self.inner else {
            return Ok(());
        };
        inner.write_all(&shown)?;
        inner.write_all(b"\n")
    }

    fn shown<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        if !self.escapes || !text.iter().any(u8::is_ascii_control) {
            return Cow::Borrowed(text);
        }
        let mut shown = Vec::with_capacity(text.len());
        for &byte in text {
            if byte.is_ascii_control() {
                shown.extend(byte.escape_ascii());
            } else {
                shown.push(byte);
            }
        }
        Cow::Owned(shown)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.as_mut().map_or(Ok(bytes.len()), |inner| inner.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// Standard output, whose errors say that they are about it.
#[derive(Debug)]
pub(crate) struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes).map_err(about_stdout)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush().map_err(about_stdout)
    }
}

fn about_stdout(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: {error}"))
}

/// Rows of cells, written with the columns aligned and one space between them.
#[derive(Debug, Default)]
pub(crate) struct Columns(Vec<Vec<Vec<u8>>>);

impl Columns {
    /// Adds a row; writes what is there when enough rows have come.
    pub(crate) fn row(&mut self, out: &mut Output, cells: Vec<Vec<u8>>) -> io::Result<()> {
        self.0.push(cells);
        if self.0.len() < ROWS_ALIGNED_MAX { Ok(()) } else { self.finish(out) }
    }

    /// Writes what is there.
    pub(crate) fn finish(&mut self, out: &mut Output) -> io::Result<()> {
        let rows = std::mem::take(&mut self.0);
        let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| text_width(cell)).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in &rows {
            let mut line = Vec::new();
            for (column, cell) in row.iter().enumerate() {
                line.extend_from_slice(cell);
                if column + 1 < row.len() {
                    line.resize(line.len() + 1 + widths[column] - text_width(cell), b' ');
                }
            }
            out.line(line)?;
        }
        out.flush()
    }
}

fn text_width(cell: &[u8]) -> usize {
    String::from_utf8_lossy(cell).chars().count()
}

/// Writes a number of bytes for people, in powers of 1000 as kubo does.
pub(crate) fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let power = bytes.ilog(1000).min(6);
    let unit_bytes = u128::from(1000_u64.pow(power));
    let tenths = u128::from(bytes) * 10 / unit_bytes;
    let unit = UNITS[power as usize - 1];
    if tenths < 100 {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    } else {
        format!("{} {unit}", tenths / 10)
    }
}

/// Writes a number of things in the right form of their name.
pub(crate) fn counted(count: u64, name: &str) -> String {
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

/// Writes how many bytes passed in a second; of less than a millisecond nothing is known.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "two digits for people"
)]
pub(crate) fn human_rate(bytes: u64, seconds: f64) -> String {
    format!("{}/s", human_size((bytes as f64 / seconds.max(0.001)) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_not_many() {
        assert_eq!(["0 peers", "1 peer", "2 peers"], [0, 1, 2].map(|count| counted(count, "peer")));
    }

    #[test]
    fn sizes_are_short() {
        let check = |bytes, text: &str| assert_eq!(human_size(bytes), text);
        check(0, "0 B");
        check(999, "999 B");
        check(1000, "1.0 kB");
        check(9_999, "9.9 kB");
        check(262_144, "262 kB");
        check(1 << 30, "1.0 GB");
        check(u64::MAX, "18 EB");
    }
}

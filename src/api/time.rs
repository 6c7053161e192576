//! Dates in UTC, because times in UnixFS have no zone: for people and for JSON.

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Half a year in seconds: the age at which `ls` shows the year instead of the hour.
const RECENT_SECONDS: i64 = 183 * 86_400;

/// Writes a time as kubo's `stat` does: `14 Nov 2023, 22:13:20 UTC`.
pub fn long(seconds: i64) -> String {
    let (year, month, day) = date(seconds);
    let (hour, minute, second) = clock(seconds);
    format!("{day} {month} {year}, {hour:02}:{minute:02}:{second:02} UTC")
}

/// Writes a time as `ls -l` does: `Nov 14 22:13`, or `Nov 14  2023` when it is not recent.
pub fn short(seconds: i64, now: i64) -> String {
    let (year, month, day) = date(seconds);
    if (now.saturating_sub(RECENT_SECONDS)..=now.saturating_add(86_400)).contains(&seconds) {
        let (hour, minute, _) = clock(seconds);
        format!("{month} {day:02} {hour:02}:{minute:02}")
    } else {
        format!("{month} {day:02}  {year}")
    }
}

/// Writes a time as JSON of Go's clients has it (RFC 3339).
pub fn rfc3339(seconds: i64, nanos: u32) -> String {
    let (year, month, day) = date(seconds);
    let (hour, minute, second) = clock(seconds);
    let month = MONTHS.iter().position(|name| *name == month).map_or(0, |index| index + 1);
    let fraction = if nanos == 0 { String::new() } else { format!(".{nanos:09}") };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

fn clock(seconds: i64) -> (i64, i64, i64) {
    let of_day = seconds.rem_euclid(86_400);
    (of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// Converts days since 1970 to the Gregorian calendar (Hinnant's `civil_from_days`).
fn date(seconds: i64) -> (i64, &'static str, i64) {
    let days = seconds.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 2 } else { shifted_month - 10 };
    let year = year_of_era + era * 400 + i64::from(month <= 1);
    let name = usize::try_from(month).ok().and_then(|month| MONTHS.get(month));
    (year, name.copied().unwrap_or("?"), day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        let check = |seconds, text: &str| assert_eq!(long(seconds), text);
        check(0, "1 Jan 1970, 00:00:00 UTC");
        check(1_700_000_000, "14 Nov 2023, 22:13:20 UTC");
        check(951_782_400, "29 Feb 2000, 00:00:00 UTC");
        check(-1, "31 Dec 1969, 23:59:59 UTC");
        check(253_402_300_799, "31 Dec 9999, 23:59:59 UTC");
        check(-62_135_596_800, "1 Jan 1, 00:00:00 UTC");
    }

    #[test]
    fn json_has_rfc_3339() {
        assert_eq!(rfc3339(1_700_000_000, 0), "2023-11-14T22:13:20Z");
        assert_eq!(rfc3339(1_700_000_000, 5), "2023-11-14T22:13:20.000000005Z");
    }

    #[test]
    fn listings_show_the_hour_or_the_year() {
        assert_eq!(short(1_700_000_000, 1_700_000_100), "Nov 14 22:13");
        assert_eq!(short(1_700_000_000, 1_790_000_000), "Nov 14  2023");
        assert_eq!(short(i64::MAX, 0).split(' ').count(), 4);
    }
}

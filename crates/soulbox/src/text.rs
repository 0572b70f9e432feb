//! How times, sizes and command lines look to people. Pure.

use jiff::Timestamp;

/// `5 s`, `12 min`, `3 h`, `2 d`: the one unit that matters.
pub(crate) fn duration(seconds: i64) -> String {
    match seconds {
        ..0 => "0 s".to_owned(),
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long ago that was; the text itself where it is no time.
pub(crate) fn ago(now: Timestamp, rfc3339: &str) -> String {
    match rfc3339.parse::<Timestamp>() {
        Ok(then) => format!("{} ago", duration(now.as_second() - then.as_second())),
        Err(_) => rfc3339.to_owned(),
    }
}

/// How long until then.
pub(crate) fn until(now: Timestamp, rfc3339: &str) -> String {
    match rfc3339.parse::<Timestamp>() {
        Ok(then) if then > now => format!("in {}", duration(then.as_second() - now.as_second())),
        Ok(_) => "now".to_owned(),
        Err(_) => rfc3339.to_owned(),
    }
}

/// Date and time to the second, UTC.
pub(crate) fn moment(rfc3339: &str) -> String {
    match rfc3339.parse::<Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => rfc3339.to_owned(),
    }
}

/// Bytes in MiB or GiB.
pub(crate) fn size(bytes: i64) -> String {
    let tenths = |unit: i64| bytes.saturating_mul(10) / unit;
    let (tenths, unit) = if bytes >= 1 << 30 {
        (tenths(1 << 30), "GiB")
    } else {
        (tenths(1 << 20), "MiB")
    };
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// One line for a shell that means exactly these words. A single word is taken as a line already.
pub(crate) fn shell_line(words: &[String]) -> String {
    match words {
        [line] => line.clone(),
        words => words
            .iter()
            .map(|word| quote(word))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

fn quote(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./=:,@%+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(ago(now, "2026-01-02T03:03:05.5Z"), "60 s ago");
        assert_eq!(ago(now, "2026-01-01T03:04:05Z"), "24 h ago");
        assert_eq!(ago(now, "soon"), "soon");
        assert_eq!(until(now, "2026-01-02T03:09:05Z"), "in 5 min");
        assert_eq!(until(now, "2026-01-02T03:00:00Z"), "now");
        assert_eq!(moment("2026-01-02T03:04:05.123456Z"), "2026-01-02 03:04:05");
    }

    #[test]
    fn sizes() {
        assert_eq!(size(0), "0.0 MiB");
        assert_eq!(size(1_572_864), "1.5 MiB");
        assert_eq!(size(10 << 30), "10.0 GiB");
    }

    #[test]
    fn lines() {
        let line = |words: &[&str]| {
            shell_line(
                &words
                    .iter()
                    .map(|word| (*word).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(line(&["echo hi | wc"]), "echo hi | wc");
        assert_eq!(
            line(&["ls", "-la", "/a b", "it's", ""]),
            r"ls -la '/a b' 'it'\''s' ''"
        );
    }
}

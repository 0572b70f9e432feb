//! `soulbox sandbox url`

use clap::Args;

/// `soulbox sandbox url`
#[derive(Debug, Args)]
pub(crate) struct UrlArgs {
    /// The sandbox
    pub(crate) id: String,
    /// The port inside
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// How long it is good, when traffic to the sandbox is not public: 90s, 15m, 1h, 7d
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = seconds)]
    pub(crate) seconds: i64,
}

fn seconds(text: &str) -> Result<i64, String> {
    let wanted = || "expected a number with s, m, h or d, such as 15m".to_owned();
    let (at, unit) = text.char_indices().last().ok_or_else(wanted)?;
    let unit = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wanted()),
    };
    let number: u32 = text[..at].parse().map_err(|_| wanted())?;
    Ok(i64::from(number) * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, want) in [
            ("90s", Some(90)),
            ("15m", Some(900)),
            ("1h", Some(3600)),
            ("7d", Some(604_800)),
            ("", None),
            ("h", None),
            ("1", None),
            ("-1h", None),
            ("1ü", None),
        ] {
            assert_eq!(seconds(text).ok(), want, "{text}");
        }
    }
}

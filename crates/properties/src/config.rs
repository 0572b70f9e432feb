//! The configuration file.

use std::path::PathBuf;

use crate::taken::raw::{Inputs, RawConfig, Setting, Source};

fn merged(text: &str) -> (RawConfig, Vec<String>) {
    RawConfig::merge(&Inputs {
        file: Some((PathBuf::from("soulbox.toml"), text.to_owned())),
        ..Inputs::default()
    })
}

/// Input: the file. Every setting has a value, from the file or the default, and written out it means the same.
pub(crate) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (config, problems) = merged(text);
    assert!(
        problems
            .iter()
            .all(|problem| problem.starts_with("soulbox.toml"))
    );
    let mut written = String::new();
    for setting in Setting::ALL {
        let value = config.get(setting);
        if value.source == Source::Default {
            assert_eq!(value.text, setting.default_text());
        } else {
            // A JSON text is a TOML text, but for DEL.
            let quoted = serde_json::Value::from(value.text.as_str()).to_string();
            let quoted = quoted.replace('\u{7f}', "\\u007f");
            written.push_str(&format!("{} = {quoted}\n", setting.name()));
        }
    }
    let (again, problems) = merged(&written);
    assert_eq!(problems, Vec::<String>::new(), "{written}");
    for setting in Setting::ALL {
        assert_eq!(
            again.get(setting),
            config.get(setting),
            "{}",
            setting.name()
        );
    }
}

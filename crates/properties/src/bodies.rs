//! Bodies and filters of the control plane.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use soulbox_api_types::admin::NodeStatusChange;
use soulbox_api_types::build::{NewTemplateBuild, StartTemplateBuild};
use soulbox_api_types::network::SandboxNetworkUpdate;
use soulbox_api_types::sandbox::{ConnectSandbox, NewSandbox};
use soulbox_api_types::secret::NewSecret;
use soulbox_api_types::tag::AssignTags;

use crate::taken::{metadata, strict};

/// Input: which body, then JSON.
pub(crate) fn bodies(data: &[u8]) {
    let Some((kind, json)) = data.split_first() else {
        return;
    };
    match kind % 8 {
        0 => body::<NewSandbox>(json),
        1 => body::<ConnectSandbox>(json),
        2 => body::<SandboxNetworkUpdate>(json),
        3 => body::<NewTemplateBuild>(json),
        4 => body::<StartTemplateBuild>(json),
        5 => body::<AssignTags>(json),
        6 => body::<NewSecret>(json),
        _ => body::<NodeStatusChange>(json),
    }
}

/// What is read strictly is an object, means the same to an ordinary reader, and can be written and read again.
fn body<T: Serialize + DeserializeOwned + PartialEq + Debug>(json: &[u8]) {
    let plain = serde_json::from_slice::<T>(json);
    match strict::from_slice::<T>(json) {
        Ok(value) => {
            assert!(std::str::from_utf8(json).is_ok(), "JSON is text");
            let first = json.trim_ascii_start().first();
            assert_eq!(first, Some(&b'{'), "only objects are bodies");
            assert!(
                plain.is_ok_and(|plain| plain == value),
                "both readers agree"
            );
            let written = serde_json::to_vec(&value).expect("our own types");
            assert_eq!(
                strict::from_slice::<T>(&written).expect("our own text"),
                value
            );
        }
        // The strict reader refuses more, but only where a list stands for an object or an object for a word.
        Err(_) => assert!(plain.is_err() || json.contains(&b'[') || json.contains(&b'{')),
    }
}

/// Input: the filter by metadata, as the query parser hands it over.
pub(crate) fn metadata(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(pairs) = metadata::parse(text) else {
        return;
    };
    let encode = |text: &str| {
        let once = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        };
        once(&once(text))
    };
    let written: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{}={}", encode(key), encode(value)))
        .collect();
    assert_eq!(metadata::parse(&written.join("&")), Ok(pairs));
}

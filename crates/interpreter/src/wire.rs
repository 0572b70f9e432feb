//! Messages of the Jupyter protocol: how they are signed, and what is read of them.
//!
//! Read into plain JSON and not into a type per message: kernels differ in what they leave out, and a message that
//! cannot be understood must not end a connection.

use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;
use zeromq::ZmqMessage;

/// Stands between the addresses of a message and the message.
const DELIMITER: &[u8] = b"<IDS|MSG>";
/// The protocol's version that is spoken.
const VERSION: &str = "5.3";

/// What a kernel's messages are signed with.
#[derive(Debug, Clone)]
pub(crate) struct Key(String);

impl Key {
    pub(crate) fn new() -> Self {
        Self(Uuid::new_v4().simple().to_string())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn mac<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Hmac<Sha256> {
        let mut mac =
            Hmac::new_from_slice(self.0.as_bytes()).expect("HMAC takes keys of any length");
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

/// Who sent a message, and when.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Header {
    pub(crate) msg_id: String,
    pub(crate) msg_type: String,
    pub(crate) date: Option<String>,
}

/// The header of the request that a message answers. Absent in what a kernel says by itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parent {
    msg_id: String,
}

/// A message from a kernel.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) header: Header,
    /// Id of the request that it answers; empty when there is none.
    pub(crate) parent: String,
    pub(crate) content: Value,
}

/// Why a message was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// Not the frames of a message.
    #[error("a message has no delimiter or too few parts")]
    Frames,
    /// Not from somebody who knows the key.
    #[error("a message has a wrong signature")]
    Signature,
    /// Not JSON.
    #[error("a part of a message is no JSON")]
    Json(#[source] serde_json::Error),
}

/// A request as frames, and its id.
pub(crate) fn request(
    key: &Key,
    session: &str,
    kind: &str,
    content: &Value,
) -> (String, ZmqMessage) {
    let id = Uuid::new_v4().simple().to_string();
    let header = json!({
        "msg_id": id,
        "msg_type": kind,
        "session": session,
        "username": "soulbox",
        "date": jiff::Timestamp::now().to_string(),
        "version": VERSION,
    });
    let parts = [
        header.to_string(),
        "{}".to_owned(),
        "{}".to_owned(),
        content.to_string(),
    ];
    let mac = key.mac(parts.iter().map(String::as_bytes));
    let mut message = ZmqMessage::from(Bytes::from_static(DELIMITER));
    message.push_back(hex(&mac.finalize().into_bytes()).into());
    for part in parts {
        message.push_back(part.into());
    }
    (id, message)
}

/// A kernel's message, when it is one.
pub(crate) fn read(key: &Key, message: ZmqMessage) -> Result<Message, WireError> {
    let frames = message.into_vec();
    let at = frames
        .iter()
        .position(|frame| frame.as_ref() == DELIMITER)
        .ok_or(WireError::Frames)?;
    let [_, signature, header, parent, metadata, content, ..] =
        frames.get(at..).ok_or(WireError::Frames)?
    else {
        return Err(WireError::Frames);
    };
    let mac = key.mac([header, parent, metadata, content].map(AsRef::as_ref));
    let claimed = unhex(signature).ok_or(WireError::Signature)?;
    mac.verify_slice(&claimed)
        .map_err(|_| WireError::Signature)?;
    let parent: Option<Parent> = serde_json::from_slice(parent).map_err(WireError::Json)?;
    Ok(Message {
        header: serde_json::from_slice(header).map_err(WireError::Json)?,
        parent: parent.unwrap_or_default().msg_id,
        content: serde_json::from_slice(content).map_err(WireError::Json)?,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    text.chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(key: &Key, with: &Key) -> Result<Message, WireError> {
        let (_, mut message) = request(key, "s", "stream", &json!({"text": "é"}));
        message.push_front(Bytes::from_static(b"kernel.1.stream"));
        read(with, message)
    }

    #[test]
    fn what_is_signed_is_read() {
        let key = Key::new();
        let message = answered(&key, &key).unwrap();
        assert_eq!(message.header.msg_type, "stream");
        assert_eq!(message.content, json!({"text": "é"}));
        assert_eq!(message.parent, "");
    }

    #[test]
    fn what_others_signed_is_not() {
        assert!(matches!(
            answered(&Key::new(), &Key::new()),
            Err(WireError::Signature)
        ));
        assert!(matches!(
            read(&Key::new(), ZmqMessage::from("x")),
            Err(WireError::Frames)
        ));
    }

    #[test]
    fn digits() {
        assert_eq!(unhex(b"0aFf"), Some(vec![10, 255]));
        assert_eq!(unhex(b"0"), None);
        assert_eq!(unhex(b"zz"), None);
        assert_eq!(hex(&[10, 255]), "0aff");
    }
}

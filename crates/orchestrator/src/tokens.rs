//! The secrets of a sandbox, made from its id so that nobody has to keep them: the same over connect, resume and restart.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use soulbox_types::SandboxId;

/// Makes tokens from the server's seed.
#[derive(Clone)]
pub(crate) struct Tokens {
    seed: [u8; 32],
}

impl Tokens {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { seed }
    }

    /// What envd asks of its callers.
    pub(crate) fn envd(&self, id: &SandboxId) -> String {
        self.sign(&[id.as_str()])
    }

    /// What callers of the ports of a sandbox without public traffic must show.
    pub(crate) fn traffic(&self, id: &SandboxId) -> String {
        self.sign(&["sandbox-traffic-", id.as_str()])
    }

    fn sign(&self, parts: &[&str]) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.seed).expect("HMAC takes a key of any length");
        parts.iter().for_each(|part| mac.update(part.as_bytes()));
        mac.finalize()
            .into_bytes()
            .iter()
            .fold(String::with_capacity(64), |mut hex, byte| {
                hex.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
                hex.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
                hex
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_wires() {
        // python3 -c "import hmac; print(hmac.new(bytes([7]*32), b'iabc', 'sha256').hexdigest())"
        let tokens = Tokens::new([7; 32]);
        let id: SandboxId = "iabc".parse().unwrap();
        assert_eq!(
            tokens.envd(&id),
            "5228d207c570d1290d6bd6d3a12cd549ba00b781e732e8742aad66b98921979f"
        );
        assert_eq!(
            tokens.traffic(&id),
            "d22488122c376655300c1b79adcb3331e7057df96126657ae353f275298c4286"
        );
    }
}

//! Random names.

/// From the kernel's generator; 36 letters and digits, slightly uneven, which does not matter for names.
pub(crate) fn lower_alphanumeric(length: usize) -> String {
    let mut bytes = vec![0_u8; length];
    // Blocks only before the kernel's generator is seeded, long before any sandbox; a failure leaves zeros, and the
    // callers check that a name is free.
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    bytes
        .iter()
        .map(|byte| char::from_digit(u32::from(*byte) % 36, 36).unwrap_or('0'))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn length_and_letters() {
        let name = super::lower_alphanumeric(20);
        assert_eq!(name.len(), 20);
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
        );
        assert_ne!(name, super::lower_alphanumeric(20));
    }
}

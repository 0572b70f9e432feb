//! What a file is: by its name, else by its first bytes (WHATWG MIME sniffing, the part that Go's server does).

/// By extension, with the charset that text needs.
pub(crate) fn by_name(name: &str) -> Option<String> {
    let guess = mime_guess::from_path(name).first()?;
    Some(if guess.type_() == mime_guess::mime::TEXT {
        format!("{}; charset=utf-8", guess.essence_str())
    } else {
        guess.essence_str().to_owned()
    })
}

/// How many bytes [`sniff`] looks at.
pub(crate) const SNIFF_BYTES: usize = 512;

const HTML: [&[u8]; 17] = [
    b"<!DOCTYPE HTML",
    b"<HTML",
    b"<HEAD",
    b"<SCRIPT",
    b"<IFRAME",
    b"<H1",
    b"<DIV",
    b"<FONT",
    b"<TABLE",
    b"<A",
    b"<STYLE",
    b"<TITLE",
    b"<B",
    b"<BODY",
    b"<BR",
    b"<P",
    b"<!--",
];

const MAGIC: [(&[u8], &str); 29] = [
    (b"%PDF-", "application/pdf"),
    (b"%!PS-Adobe-", "application/postscript"),
    (b"\xFE\xFF", "text/plain; charset=utf-16be"),
    (b"\xFF\xFE", "text/plain; charset=utf-16le"),
    (b"\xEF\xBB\xBF", "text/plain; charset=utf-8"),
    (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"\x00\x00\x02\x00", "image/x-icon"),
    (b"BM", "image/bmp"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\x89PNG\r\n\x1A\n", "image/png"),
    (b"\xFF\xD8\xFF", "image/jpeg"),
    (b".snd", "audio/basic"),
    (b"ID3", "audio/mpeg"),
    (b"OggS\x00", "application/ogg"),
    (b"MThd\x00\x00\x00\x06", "audio/midi"),
    (b"\x1A\x45\xDF\xA3", "video/webm"),
    (b"\x00\x01\x00\x00", "font/ttf"),
    (b"OTTO", "font/otf"),
    (b"ttcf", "font/collection"),
    (b"wOFF", "font/woff"),
    (b"wOF2", "font/woff2"),
    (b"\x1F\x8B\x08", "application/x-gzip"),
    (b"PK\x03\x04", "application/zip"),
    (b"Rar!\x1A\x07\x00", "application/x-rar-compressed"),
    (b"Rar!\x1A\x07\x01\x00", "application/x-rar-compressed"),
    (b"\x00asm", "application/wasm"),
    (b"\x7FELF", "application/octet-stream"),
    (b"<?xml", "text/xml; charset=utf-8"),
];

/// By content.
pub(crate) fn sniff(head: &[u8]) -> &'static str {
    let text_start = head
        .iter()
        .position(|b| !b"\t\n\x0C\r ".contains(b))
        .unwrap_or(head.len());
    let text = head.get(text_start..).unwrap_or_default();
    let is_html = |tag: &&'static [u8]| {
        let (start, after) = (text.get(..tag.len()), text.get(tag.len()));
        start.is_some_and(|s| s.eq_ignore_ascii_case(tag)) && matches!(after, Some(b' ' | b'>'))
    };
    if HTML.iter().any(is_html) {
        return "text/html; charset=utf-8";
    }
    if text.starts_with(b"<?xml") {
        return "text/xml; charset=utf-8";
    }
    if head.starts_with(b"RIFF") {
        match head.get(8..14) {
            Some(b"WEBPVP") => return "image/webp",
            Some(kind) if kind.starts_with(b"WAVE") => return "audio/wave",
            Some(kind) if kind.starts_with(b"AVI ") => return "video/avi",
            _ => {}
        }
    }
    if head.get(4..8) == Some(b"ftyp") && head.get(8..11) == Some(b"mp4") {
        return "video/mp4";
    }
    if let Some((_, kind)) = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
        return kind;
    }
    let binary = |b: &u8| matches!(b, 0x00..=0x08 | 0x0B | 0x0E..=0x1A | 0x1C..=0x1F);
    if head.iter().any(binary) {
        "application/octet-stream"
    } else {
        "text/plain; charset=utf-8"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_contents() {
        assert_eq!(
            by_name("a.txt").as_deref(),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(by_name("a.png").as_deref(), Some("image/png"));
        assert_eq!(by_name("a.no-such-thing"), None);
        let cases: [(&[u8], &str); 8] = [
            (b"", "text/plain; charset=utf-8"),
            (b"hello\n", "text/plain; charset=utf-8"),
            (b"\x01\x02", "application/octet-stream"),
            (b"  <html>", "text/html; charset=utf-8"),
            (b"<htmlx", "text/plain; charset=utf-8"),
            (b"\x89PNG\r\n\x1A\n....", "image/png"),
            (b"RIFF....WEBPVP8", "image/webp"),
            (b"PK\x03\x04rest", "application/zip"),
        ];
        for (content, expected) in cases {
            assert_eq!(sniff(content), expected);
        }
    }
}

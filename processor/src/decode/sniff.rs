//! Looks at the first bytes of a file and refuses what is no UTF-8 text, with what to send instead. Called by
//! `decoder`.

use super::error::DecodeError;

/// Bytes looked at.
const SNIFFED_BYTES: usize = 8 * 1024;

/// Of a hundred bytes, this many that no text holds make a file binary, if one of them is NUL.
const BINARY_PERCENT: usize = 30;

const UNPACK: &str = "send it unpacked";
const EXPORT: &str = "export it as CSV and send that";
const UTF8: &str = "save it as UTF-8 and send that";
const CSV: &str = "send delimited text in UTF-8";

/// First bytes, what they mean, and what to do. Those of letters alone might begin a text, and count only when
/// there are control bytes too.
const SIGNATURES: &[(&[u8], &str, &str)] = &[
    (b"\x1f\x8b", "gzip data", UNPACK),
    (
        b"PK\x03\x04",
        "a zip archive, as XLSX workbooks are too",
        "send the delimited text itself, unpacked or exported as CSV",
    ),
    (b"\x28\xb5\x2f\xfd", "zstd data", UNPACK),
    (b"\xfd7zXZ\x00", "xz data", UNPACK),
    (b"BZh", "bzip2 data", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"PAR1", "a Parquet file", EXPORT),
    (b"ORC", "an ORC file", EXPORT),
    (b"Obj\x01", "an Avro file", EXPORT),
    (b"ARROW1", "an Arrow file", EXPORT),
    (b"SQLite format 3\x00", "an SQLite database", EXPORT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document, perhaps an XLS workbook", EXPORT),
    (b"%PDF-", "a PDF document", EXPORT),
    (b"\x89PNG\r\n\x1a\n", "a PNG image", CSV),
    (b"\xff\xd8\xff", "a JPEG image", CSV),
    (b"\x7fELF", "a program", CSV),
];

/// Bytes to skip at the begin: those of a UTF-8 byte order mark.
pub(super) fn begin(bytes: &[u8]) -> Result<usize, DecodeError> {
    const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";
    let sample = &bytes[..bytes.len().min(SNIFFED_BYTES)];
    match what(sample) {
        Some((what, help)) => Err(DecodeError::NotText { what, help }),
        None if sample.starts_with(UTF8_MARK) => Ok(UTF8_MARK.len()),
        None => Ok(0),
    }
}

fn what(sample: &[u8]) -> Option<(&'static str, &'static str)> {
    let strange = strange_bytes(sample);
    if sample.starts_with(b"\xff\xfe\x00\x00") || sample.starts_with(b"\x00\x00\xfe\xff") {
        return Some(("text in UTF-32", UTF8));
    }
    if sample.starts_with(b"\xff\xfe") || sample.starts_with(b"\xfe\xff") {
        return Some(("text in UTF-16", UTF8));
    }
    let known = SIGNATURES.iter().find(|(magic, ..)| {
        sample.starts_with(magic) && (strange > 0 || magic.iter().any(|byte| !byte.is_ascii_graphic()))
    });
    if let Some(&(_, what, help)) = known {
        return Some((what, help));
    }
    let nuls = sample.iter().filter(|&&byte| byte == 0).count();
    if nuls == 0 || strange * 100 < sample.len() * BINARY_PERCENT {
        return None;
    }
    match is_wide(sample) {
        true => Some(("text in UTF-16 without a byte order mark", UTF8)),
        false => Some(("binary data", CSV)),
    }
}

/// Control bytes, and where the sample is no UTF-8 all bytes beyond ASCII.
fn strange_bytes(sample: &[u8]) -> usize {
    let utf8 = match std::str::from_utf8(sample) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    let strange = |&&byte: &&u8| match byte {
        b'\t' | b'\n' | b'\r' | 0x0c => false,
        0..0x20 | 0x7f => true,
        0x80.. => !utf8,
        _ => false,
    };
    sample.iter().filter(strange).count()
}

/// Each second byte is NUL and the others are text.
fn is_wide(sample: &[u8]) -> bool {
    let every_second = |first: usize| {
        let mut bytes = sample.iter().skip(first).step_by(2);
        bytes.all(|&byte| byte == 0)
    };
    sample.len() >= 4 && every_second(0) != every_second(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bytes: &[u8]) -> String {
        begin(bytes).map(|skip| skip.to_string()).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn packed_and_foreign_files_are_named() {
        assert_eq!(told(b"\x1f\x8b\x08\x00rest"), "the file is gzip data; send it unpacked");
        assert!(told(b"PK\x03\x04\x14").contains("zip archive"));
        assert!(told(b"PAR1\x15\x04").contains("Parquet"));
        assert!(told(b"\xff\xfei\x00d\x00").contains("UTF-16; save it as UTF-8"));
        assert!(told(b"i\x00d\x00,\x00n\x00").contains("UTF-16 without a byte order mark"));
        assert!(told(b"\x00\x01\x02\x03\xff\xfe\x80\x00").contains("binary data"));
        let noise: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert!(told(&noise).contains("binary data"));
    }

    #[test]
    fn texts_are_let_through() {
        for text in [
            "",
            "id,name\n1,x\n",
            "PAR1,ORC\n",
            "BZh\n",
            "ORC",
            "Łódź;Køge\n",
            "1,a\0b\n2,long enough to be text",
        ] {
            assert_eq!(told(text.as_bytes()), "0", "{text:?}");
        }
        assert_eq!(told(b"\xef\xbb\xbfid\n"), "3");
        assert_eq!(told(b"1,caf\xe9\n"), "0");
        assert_eq!(told("é".repeat(SNIFFED_BYTES).get(..SNIFFED_BYTES).unwrap().as_bytes()), "0");
    }
}

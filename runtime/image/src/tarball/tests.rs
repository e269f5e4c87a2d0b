use super::*;

type Pair = (Vec<u8>, Vec<u8>);

fn records(bytes: &[u8]) -> Result<Vec<Pair>, TarFault> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let record = pax_record(rest)?;
        found.push((record.key.to_vec(), record.value.to_vec()));
        rest = record.rest;
    }
    Ok(found)
}

#[test]
fn pax_records_are_cut_by_their_length_not_by_newlines() {
    let found = records(b"13 path=a\nb=\n6 k=v\n").unwrap();
    assert_eq!(found, [(b"path".to_vec(), b"a\nb=".to_vec()), (b"k".to_vec(), b"v".to_vec())]);
}

#[test]
fn malformed_pax_records_are_refused() {
    for bad in [
        &b"path=a\n"[..],
        b"99 path=a\n",
        b"8 path=a\n",
        b"10 path=a!",
        b"0 \n",
        b"3 \n",
        b"-1 path=a\n",
        b"8 patha\n",
        b"18446744073709551616 a=b\n",
        b"\n",
    ] {
        assert!(records(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn long_names_lose_one_nul_and_keep_others_to_be_refused() {
    assert_eq!(long_name(b"name\0"), b"name");
    assert_eq!(long_name(b"name"), b"name");
    assert_eq!(long_name(b"na\0me\0"), b"na\0me");
}

#[test]
fn what_an_archive_says_is_shown_escaped() {
    let fault = TarFault::Malformed { detail: lossy(b"numeric field was not a number: \x1b]0;x\x07 in `a`") };
    assert_eq!(
        fault.to_string(),
        "the archive is not readable: numeric field was not a number: \\u{1b}]0;x\\u{7} in `a`"
    );
    let raw = "\u{1b}[31m".to_owned();
    for fault in [
        crate::unpack::LayerFault::Inflate { detail: raw.clone() },
        crate::unpack::LayerFault::Protocol { detail: raw.clone() },
        crate::unpack::LayerFault::Confinement { step: raw.clone() },
        crate::unpack::LayerFault::Content { expected: raw.clone() },
        crate::unpack::LayerFault::Limit { what: raw.clone(), max: 1 },
        crate::unpack::LayerFault::ChildDied { status: raw.clone() },
        crate::unpack::LayerFault::Io { doing: raw.clone(), detail: raw },
    ] {
        assert!(!fault.to_string().contains(char::is_control), "{fault:?}");
    }
}

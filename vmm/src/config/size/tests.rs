use super::{PlainUnit, parse};

#[test]
fn size_suffixes_are_powers_of_1024() {
    let sizes = [
        ("512M", 512 << 20),
        ("1g", 1 << 30),
        ("2048K", 2 << 20),
        ("1T", 1 << 40),
        ("4096B", 4096),
    ];
    for (text, bytes) in sizes {
        assert_eq!(parse(text, PlainUnit::Bytes), Ok(bytes), "{text}");
    }
}

#[test]
fn plain_number_takes_the_unit_of_the_option() {
    assert_eq!(parse("512", PlainUnit::Mebibytes), Ok(512 << 20));
    assert_eq!(parse("512", PlainUnit::Bytes), Ok(512));
}

#[test]
fn hexadecimal_number_takes_the_unit_of_the_option() {
    assert_eq!(parse("0x202000", PlainUnit::Bytes), Ok(0x20_2000));
    assert_eq!(parse("0x1b", PlainUnit::Mebibytes), Ok(0x1b << 20));
}

#[test]
fn anything_else_is_refused_and_quoted() {
    for text in [
        "",
        "M",
        "-1M",
        "+1",
        "1.5G",
        "12MB",
        "0x",
        "0x+1",
        "0x-1",
        "0x10M",
        "0x10000000000000000",
        "1 M",
        "18446744073709551616",
    ] {
        assert!(
            parse(text, PlainUnit::Bytes)
                .unwrap_err()
                .contains(&format!("{text:?}")),
            "{text}"
        );
    }
    assert!(
        parse("99999999T", PlainUnit::Bytes)
            .unwrap_err()
            .contains("64 bits")
    );
}

use super::{Place, PropertyList};

fn place(properties: &str) -> Result<Place, String> {
    Place::take(&mut PropertyList::parse(&format!("x,{properties}")).unwrap())
        .map_err(|error| error.0)
}

#[test]
fn addr_is_slot_and_function_decimal_or_hexadecimal() {
    let forms = [
        ("0x03.0x0", (3, 0)),
        ("0x5", (5, 0)),
        ("3.1", (3, 1)),
        ("31.7", (31, 7)),
        ("0x1f.0x7", (31, 7)),
    ];
    for (addr, expected) in forms {
        let place = place(&format!("bus=pcie.0,addr={addr}")).unwrap();
        assert_eq!((place.slot, place.function), expected, "{addr}");
    }
}

#[test]
fn slot_out_of_range_is_named() {
    for addr in ["32", "0x20", "", "x", "-1", "+1", "0x", "1f", " 3"] {
        let refused = place(&format!("bus=pcie.0,addr={addr}.0")).unwrap_err();
        assert!(refused.contains("is not a slot"), "{addr}: {refused}");
    }
}

#[test]
fn function_out_of_range_is_named() {
    for addr in ["3.8", "3.0x8", "3.", "3.x"] {
        let refused = place(&format!("bus=pcie.0,addr={addr}")).unwrap_err();
        assert!(refused.contains("is not a function"), "{addr}: {refused}");
    }
}

#[test]
fn addr_with_three_parts_is_refused() {
    assert!(
        place("bus=pcie.0,addr=3.0.0")
            .unwrap_err()
            .contains("more than slot and function")
    );
}

#[test]
fn bus_and_addr_are_required() {
    assert!(place("addr=3").unwrap_err().contains("bus is missing"));
    assert!(place("bus=pcie.0").unwrap_err().contains("addr is missing"));
}

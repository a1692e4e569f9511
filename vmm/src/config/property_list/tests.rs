use super::{PropertyError, PropertyList};

#[test]
fn manual_line_gives_driver_and_properties() {
    let mut list =
        PropertyList::parse("vfio-pci,host=0000:1a:00.3,id=net,multifunction=on").unwrap();
    assert_eq!(list.head, "vfio-pci");
    assert_eq!(list.take("host").as_deref(), Some("0000:1a:00.3"));
    assert_eq!(list.take("id").as_deref(), Some("net"));
    assert_eq!(list.take_switch("multifunction"), Ok(Some(true)));
    assert_eq!(list.take_switch("bar-mmap"), Ok(None));
    assert_eq!(list.finish(), Ok(()));
}

#[test]
fn double_comma_is_a_comma_in_the_value() {
    let mut list = PropertyList::parse("x,path=/a,,b,c=d").unwrap();
    assert_eq!(list.take("path").as_deref(), Some("/a,b"));
    assert_eq!(list.take("c").as_deref(), Some("d"));
}

#[test]
fn unknown_key_is_named_with_the_known_ones() {
    let mut list = PropertyList::parse("x,hots=1").unwrap();
    list.take("host");
    list.take("bus");
    let expected = "unknown property \"hots\"; known: bus, host";
    assert_eq!(list.finish(), Err(PropertyError(expected.to_owned())));
}

#[test]
fn key_given_twice_is_refused() {
    let refused = PropertyList::parse("x,id=a,id=b").unwrap_err();
    assert_eq!(refused.0, "id is given twice");
}

#[test]
fn switch_takes_six_words_and_nothing_else() {
    for (word, value) in [
        ("on", true),
        ("true", true),
        ("yes", true),
        ("off", false),
        ("false", false),
        ("no", false),
    ] {
        let mut list = PropertyList::parse(&format!("x,s={word}")).unwrap();
        assert_eq!(list.take_switch("s"), Ok(Some(value)), "{word}");
    }
    let mut list = PropertyList::parse("x,s=1").unwrap();
    assert_eq!(list.take_switch("s").unwrap_err().0, "s=1: write on or off");
    let mut bare = PropertyList::parse("x,s").unwrap();
    assert_eq!(bare.take_switch("s"), Ok(Some(true)));
}

#[test]
fn missing_and_empty_required_properties_differ() {
    let mut list = PropertyList::parse("x,id=").unwrap();
    assert_eq!(
        list.take_required("id", "net").unwrap_err().0,
        "id is empty; give for example id=net"
    );
    assert_eq!(
        list.take_required("bus", "pcie.0").unwrap_err().0,
        "bus is missing; give for example bus=pcie.0"
    );
}

#[test]
fn head_key_may_be_left_out() {
    for text in ["512M", "size=512M"] {
        let mut list = PropertyList::parse_with_head_key(text, "size").unwrap();
        assert_eq!(list.take("size").as_deref(), Some("512M"));
    }
}

#[test]
fn line_without_a_name_or_with_an_empty_key_is_refused() {
    PropertyList::parse("host=0000:1a:00.3").unwrap_err();
    PropertyList::parse("x,=1").unwrap_err();
    PropertyList::parse("x,").unwrap_err();
}

#[test]
fn more_properties_than_any_device_has_are_refused() {
    let many: Vec<_> = (0..65).map(|n| format!(",k{n}=1")).collect();
    PropertyList::parse(&format!("x{}", many.concat())).unwrap_err();
}

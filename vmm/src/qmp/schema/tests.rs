use super::*;

#[test]
fn every_type_that_is_named_is_described() {
    const MEMBERS: &[Member] = &[required("id", Shape::Str), optional("force", Shape::Bool)];
    let mut schema = Schema::default();
    schema.command("device_del", &Shape::Object("DeviceDel", MEMBERS), &NOTHING);
    schema.command("query-names", &NOTHING, &Shape::Array(&Shape::Str));
    let all = schema.into_json();
    let names: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    for entry in all.as_array().unwrap() {
        let members = entry["members"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|member| member["type"].as_str());
        let named = ["arg-type", "ret-type", "element-type"]
            .iter()
            .filter_map(|key| entry[*key].as_str());
        for name in named.chain(members) {
            assert!(names.contains(&name), "{name} is not described");
        }
    }
}

#[test]
fn optional_member_has_a_default() {
    const MEMBERS: &[Member] = &[optional("force", Shape::Bool)];
    let mut schema = Schema::default();
    schema.command("x", &Shape::Object("X", MEMBERS), &NOTHING);
    let all = schema.into_json();
    let object = all
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["name"] == "X")
        .unwrap()
        .clone();
    assert!(
        object["members"][0]
            .as_object()
            .unwrap()
            .contains_key("default")
    );
}

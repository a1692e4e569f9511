"""What query-qmp-schema says of answers and events, and whether a value keeps to it."""

import sys

JSON_TYPES = {"string": str, "int": int, "boolean": bool}


class Shapes:
    """The types of one server."""

    def __init__(self, schema):
        self._by_name = {entry["name"]: entry for entry in schema}

    def commands(self):
        return {name for name, entry in self._by_name.items() if entry["meta-type"] == "command"}

    def check_answer(self, command, value):
        self._check(command, self._by_name[command]["ret-type"], value)

    def check_event(self, name, data):
        self._check(name, self._by_name[name]["arg-type"], data)

    def _check(self, where, type_name, value):
        entry = self._by_name[type_name]
        kind = entry["meta-type"]
        if kind == "array":
            need(where, isinstance(value, list), value, "a list")
            for index, element in enumerate(value):
                self._check(f"{where}[{index}]", entry["element-type"], element)
        elif kind == "object":
            need(where, isinstance(value, dict), value, "an object")
            members = {member["name"]: member for member in entry["members"]}
            for key, inner in value.items():
                need(where, key in members, key, f"a member of {type_name}")
                self._check(f"{where}.{key}", members[key]["type"], inner)
            for key, member in members.items():
                need(where, key in value or "default" in member, sorted(value), f"with {key}")
        elif kind == "enum":
            words = [member["name"] for member in entry["members"]]
            need(where, value in words, value, f"one of {words}")
        elif entry["json-type"] in JSON_TYPES:
            need(where, type(value) is JSON_TYPES[entry["json-type"]], value, entry["json-type"])


def need(where, holds, found, expected):
    if not holds:
        sys.exit(f"qmp client: {where} is {found!r}, not {expected}, as query-qmp-schema says")

#!/usr/bin/env python3
"""Drives a running VM by the official QMP client, the Python package qemu.qmp, through every command and event.

usage: drive.py SOCKET DEVICE-ADD [--linux]
DEVICE-ADD are the arguments of a device_add as JSON, without id. With --linux the guest is a Linux that has booted and handles
its hot-plug slots; without, it listens to nothing and every removal is a surprise. Ends the VM with quit.
Every answer and every event is held against what query-qmp-schema says of it. Exits with 1 and a sentence if something is
not as it should be.
"""

import asyncio
import json
import sys

from qemu.qmp import QMPClient
from qemu.qmp.qmp_client import ExecuteError

from shapes import Shapes

PATIENCE_S = 90
QUERIES = (
    "query-version", "query-name", "query-status", "query-kvm", "query-cpus-fast", "query-memory-size-summary", "query-pci",
    "query-hotplug", "query-vfio-user", "query-sandbox", "query-boot-files", "query-commands", "query-qmp-schema",
)
REFUSED = (
    ("no-such-command", {}, "CommandNotFound"),
    ("qmp_capabilities", {}, "CommandNotFound"),
    ("query-status", {"verbose": True}, "GenericError"),
    ("device_del", {}, "GenericError"),
    ("device_del", {"id": 5}, "GenericError"),
    ("device_del", {"id": "nothing"}, "DeviceNotFound"),
    ("device_add", {"id": "x"}, "GenericError"),
    ("device_list_properties", {"typename": "vfio-pci"}, "CommandNotFound"),
    ("device-list-properties", {"typename": "e1000"}, "DeviceNotFound"),
    ("set-boot-files", {"kernel": "/etc/hostname"}, "GenericError"),
)


class Client:
    """One connection that checks what it is told."""

    def __init__(self, name):
        self._client = QMPClient(name)
        self._events = []
        self.shapes = None

    async def connect(self, socket):
        await self._client.connect(socket)
        self.shapes = Shapes(await self._client.execute("query-qmp-schema"))

    async def execute(self, command, **arguments):
        answer = await asyncio.wait_for(self._client.execute(command, arguments or None), PATIENCE_S)
        self.shapes.check_answer(command, answer)
        return answer

    async def refused(self, command, **arguments):
        """The class and text of the error that the command must end with."""
        try:
            await self.execute(command, **arguments)
        except ExecuteError as error:
            return error.error_class, str(error)
        return sys.exit(f"{command} {arguments} was not refused")

    async def event(self, name):
        """The data of the next event of this name; others before it are left for later."""
        async def wanted():
            for index, message in enumerate(self._events):
                if message["event"] == name:
                    return self._events.pop(index)
            async for message in self._client.events:
                self.shapes.check_event(message["event"], message.get("data", {}))
                if message["event"] == name:
                    return message
                self._events.append(message)
            return sys.exit(f"the connection ended before {name}")

        try:
            message = await asyncio.wait_for(wanted(), PATIENCE_S)
        except asyncio.TimeoutError:
            sys.exit(f"no {name} within {PATIENCE_S} s; there were {[one['event'] for one in self._events]}")
        return message.get("data")

    async def disconnect(self):
        await self._client.disconnect()


async def drive(socket, device, linux):
    """All of it."""
    clients = [Client(f"client {number}") for number in range(4)]
    for client in clients:
        await client.connect(socket)
    client = clients[0]
    await queries(client)
    for command, arguments, expected in REFUSED:
        found, text = await client.refused(command, **arguments)
        check(f"class of {command} {arguments} ({text})", found, expected)
    await plug_and_unplug(client, device, linux)
    await all_at_once(clients)
    await client_that_leaves(clients.pop(), client, device, linux)
    await reset(client, device, linux)
    await client.execute("system_powerdown")
    await client.event("POWERDOWN")
    await client.execute("quit")
    for one in clients:
        check("SHUTDOWN", await one.event("SHUTDOWN"), {"guest": False, "reason": "host-qmp-quit"})


async def queries(client):
    names = {command["name"] for command in await client.execute("query-commands")}
    check("commands in the schema", client.shapes.commands(), names)
    for query in QUERIES:
        await client.execute(query)
    for driver in ("vfio-pci", "vfio-user-pci", "pcie-root-port"):
        properties = await client.execute("device-list-properties", typename=driver)
        check(f"{driver} has an addr", "addr" in {one["name"] for one in properties}, True)


async def plug_and_unplug(client, device, linux):
    for name in ("d0", "d0", "d1"):
        await plug(client, name, device, linux)
        text = (await client.refused("device_add", id=name, **device))[1]
        check("an id that is taken", "Duplicate device ID" in text, True)
        (found,) = await client.execute("query-vfio-user")
        check("device", (found["device"], found["state"]), (name, "present"))
        check("capabilities", found["capabilities"]["max-data-xfer-size"] > 0, True)
        counted = sum(bucket["count"] for bucket in found["latency"])
        check("accesses are counted where there is a Linux", counted > 0 or not linux, True)
        pci = json.dumps(await client.execute("query-pci"))
        check("query-pci shows the device behind its port", f'"qdev_id": "{name}"' in pci or not linux, True)
        await unplug(client, name, device)
        print(f"plugged, refused a second time, unplugged: {name}")


async def plug(client, name, device, linux):
    check("device_add", await client.execute("device_add", id=name, **device), {})
    if linux:
        check("data", await client.event("BULKHEAD_DEVICE_READY"), {"device": name, "path": name})


async def unplug(client, name, device):
    check("device_del", await client.execute("device_del", id=name), {})
    check("data", await client.event("DEVICE_DELETED"), {"device": name, "path": name})
    slots = await client.execute("query-hotplug")
    (slot,) = (slot for slot in slots if slot["bus"] == device["bus"])
    # Right after a surprise a Linux may not have turned the slot off yet.
    check("slot", (slot["state"] in ("empty", "gone"), slot["devices"]), (True, []))


async def all_at_once(clients):
    """Each gets its own answers, and all get the events of each."""
    for round_ in range(5):
        answers = await asyncio.gather(*(one.execute("query-status") for one in clients))
        check("status", answers, [{"running": True, "status": "running"}] * len(clients))
        await clients[round_ % len(clients)].execute("stop")
        for one in clients:
            await one.event("STOP")
        await clients[(round_ + 1) % len(clients)].execute("cont")
        for one in clients:
            await one.event("RESUME")
    print(f"{len(clients)} clients at once")


async def client_that_leaves(leaving, staying, device, linux):
    """Its plug and its unplug end as if it were there."""
    task = asyncio.ensure_future(leaving.execute("device_add", id="left", **device))

    async def is_there(states):
        while not any(one["state"] in states for one in await staying.execute("query-vfio-user")):
            await asyncio.sleep(0.01)

    await asyncio.wait_for(is_there(("attaching", "present")), PATIENCE_S)
    await leaving.disconnect()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait_for(is_there(("present",)), PATIENCE_S)
    if linux:
        await staying.event("BULKHEAD_DEVICE_READY")
    check("device_del", await staying.execute("device_del", id="left"), {})
    check("data", await staying.event("DEVICE_DELETED"), {"device": "left", "path": "left"})
    print("a client left while it plugged")


async def reset(client, device, linux):
    """A guest that was reset, into what was chosen, turns the device on again."""
    await plug(client, "kept", device, linux)
    same = (await client.execute("query-boot-files"))["in-force"]
    check("set-boot-files", await client.execute("set-boot-files", **same), {})
    check("chosen", (await client.execute("query-boot-files"))["next"], same)
    await client.execute("system_reset")
    check("RESET", await client.event("RESET"), {"guest": False, "reason": "host-qmp-system-reset"})
    if linux:
        check("data", await client.event("BULKHEAD_DEVICE_READY"), {"device": "kept", "path": "kept"})
    await client.execute("device_del", id="kept", force=True)
    await client.event("DEVICE_DELETED")
    print("reset with a device, taken away by force")


def check(what, found, expected):
    if found != expected:
        sys.exit(f"qmp client: {what}: {found}, not {expected}")


def main():
    words = [word for word in sys.argv[1:] if word != "--linux"]
    if len(words) != 2:
        sys.exit(__doc__)
    asyncio.run(drive(words[0], json.loads(words[1]), "--linux" in sys.argv))
    print("qmp client ok")


if __name__ == "__main__":
    main()

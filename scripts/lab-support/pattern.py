"""What is on the lab's NVMe disk: a pattern that says of every 16 bytes which block they belong to.

Block n (4096 bytes) is the record b"BULKHEAD" + n as little-endian u64, 256 times.
"""

import struct

DISK_BYTES = 64 << 20
BLOCK_BYTES = 4096
MAGIC = b"BULKHEAD"


def block(number):
    return (MAGIC + struct.pack("<Q", number)) * (BLOCK_BYTES // 16)


def write(path):
    with open(path, "wb") as image:
        for number in range(DISK_BYTES // BLOCK_BYTES):
            image.write(block(number))

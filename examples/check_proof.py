#!/usr/bin/env python3
"""Checks a proof that `primalcore audit prove ID` made, without PrimalCore: written from docs/AUDIT.md alone.

    python3 check_proof.py proof.json "hub.example/audit+baa918fb+AUXf..."

Needs `pip install cryptography` for Ed25519.
"""

import base64
import hashlib
import json
import struct
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def sha256(data):
    return hashlib.sha256(data).digest()


def raw(value):
    if value is None:
        return None
    return value["text"].encode() if "text" in value else base64.b64decode(value["base64"], validate=True)


def sized(data):
    return struct.pack(">I", len(data)) + data


def optional(data):
    return b"\0" if data is None else b"\1" + sized(data)


def leaf(record):
    headers = sorted(((h["name"].encode(), raw(h["value"])) for h in record["headers"]), key=lambda h: h[0])
    out = struct.pack(">BQ", 1, record["offset"]) + optional(raw(record["key"])) + struct.pack(">I", len(headers))
    for name, value in headers:
        out += sized(name) + optional(value)
    return out + optional(raw(record["value"]))


def root(node, index, size, path):
    """RFC 6962, 2.1.1, read from the top down."""
    if size == 1:
        assert not path and index == 0, "the path is too long"
        return node
    left = 1 << (size - 1).bit_length() - 1
    assert path, "the path is too short"
    if index < left:
        return sha256(b"\1" + root(node, index, left, path[:-1]) + path[-1])
    return sha256(b"\1" + path[-1] + root(node, index - left, size - left, path[:-1]))


def opened(note, key):
    """The text of a signed note (https://c2sp.org/signed-note)."""
    name, key_id, public = key.strip().split("+", 2)
    public = base64.b64decode(public)
    assert public[0] == 1 and sha256(name.encode() + b"\n" + public)[:4].hex() == key_id, "this is no Ed25519 key"
    text, signatures = note[: note.rindex("\n\n") + 1], note[note.rindex("\n\n") + 2 :]
    for line in signatures.splitlines():
        _, signer, signature = line.split(" ")
        signature = base64.b64decode(signature)
        if signer == name and signature[:4].hex() == key_id:
            Ed25519PublicKey.from_public_bytes(public[1:]).verify(signature[4:], text.encode())
            return text
    raise AssertionError("that key has not signed it")


proof, key = json.load(open(sys.argv[1])), sys.argv[2]
origin, size, signed = opened(proof["checkpoint"], key).splitlines()[:3]
path = [base64.b64decode(node) for node in proof["path"]]
found = root(sha256(b"\0" + leaf(proof["record"])), proof["leaf_index"], int(size), path)
assert found == base64.b64decode(signed), "record and path do not lead to the signed root"
print(f"offset {proof['record']['offset']} is leaf {proof['leaf_index']} of {size} in {origin}")

"""Messages of processes that share a standard error, as those of torchrun do."""

import socket
import subprocess
import sys


def test_a_message_leaves_a_process_without_a_buffer_in_one_write():
    read, write = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps writes apart
    with read, write:
        call = [sys.executable, "-u", "-m", "ssl_rs.pretrain", "backbone=resnt50"]
        done = subprocess.run(call, stderr=write, check=False)
        write.close()
        writes = []
        while said := read.recv(1 << 16):
            writes.append(said.decode())
    assert done.returncode == 2
    assert len(writes) == 1
    assert "Did you mean 'resnet50'?" in writes[0]
    assert writes[0].endswith("\n")

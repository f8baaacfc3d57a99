"""The container runtime: CRI v1 over a Unix socket, on runc, conmon, overlayfs, cgroups and CNI.

A process of its own (`python -m agent.runtime`), so that containers outlive it and the agent. It may import the
generated stubs in agent.cri, protobuf and grpc, and nothing of machinery.client or HTTP: what is idle should be small.

Start reading in server.py (the process), then runtime_service.py (the calls), sandbox.py and container.py (what they
do). oci_spec.py is pure; kernel.py holds every system call that Python lacks.
"""

"""The scheduler: puts pods on nodes.

It may import machinery only. Start reading in scheduler/schedule_one.py (one pod's cycle), then scheduler/scheduler.py.
"""

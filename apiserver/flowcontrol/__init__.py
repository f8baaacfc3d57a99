"""API priority and fairness: who waits when requests are too many. Start in apiserver/flowcontrol/controller.py."""

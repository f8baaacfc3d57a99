"""The client kit: REST, reflector, informer, work queue, events, leader election. Start in machinery/client/rest.py."""

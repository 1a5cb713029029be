"""What the tests are made of.

``target`` knows which server is under test and how to start it, ``marks`` which tests
are for which server, ``server`` runs one and watches its output, ``processes`` reads the
process tree, ``wire`` is an HTTP/1 client that hides nothing, ``load`` drives many
clients and counts what is lost.
"""

"""What the tests are made of.

``target`` knows which server is under test and how to start it, ``server`` runs one
and watches its output, ``processes`` reads the process tree, ``wire`` is an HTTP/1
client that hides nothing, ``load`` drives many of them and counts what is lost.
"""

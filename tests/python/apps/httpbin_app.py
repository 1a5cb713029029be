"""httpbin, a WSGI application, behind asgiref's adapter."""

from asgiref.wsgi import WsgiToAsgi
from httpbin import app as httpbin

app = WsgiToAsgi(httpbin)

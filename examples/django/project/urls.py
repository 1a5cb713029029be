"""The pages: the admin, and one that counts the users."""

from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path


def users(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"users": User.objects.count(), "host": request.get_host()})


def numbers(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(f"{number}\n" for number in range(3))


urlpatterns = [
    path("", users),
    path("numbers/", numbers),
    path("admin/", admin.site.urls),
]

"""The endpoint in Django: a view, models of the existing tables, and bulk_update."""

import hashlib
import json
import os

import dj_database_url
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import models
from django.db.models.functions import Now
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.utils import timezone
from django.views.decorators.http import require_POST

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    DATABASES={
        "default": dj_database_url.parse(os.environ["DATABASE_URL"], conn_max_age=None)
    },
    DATA_UPLOAD_MAX_MEMORY_SIZE=10 * 1024 * 1024,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF=__name__,
)
django.setup()


class ApiKey(models.Model):
    """An API key of an organization."""

    id = models.UUIDField(primary_key=True)
    organization_id = models.UUIDField()
    key_hash = models.BinaryField(unique=True)
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "devices"
        db_table = "api_keys"
        managed = False


class Device(models.Model):
    """A device. The model uses only the unique part of the primary key."""

    id = models.UUIDField(primary_key=True)
    organization_id = models.UUIDField()
    identifier = models.TextField()
    device_metadata = models.JSONField()
    updated_at = models.DateTimeField()

    class Meta:
        app_label = "devices"
        db_table = "devices"
        managed = False


def organization_of(key: str) -> str:
    """Return the ID of the organization that the API key belongs to."""
    return (
        ApiKey.objects.filter(
            models.Q(expires_at=None) | models.Q(expires_at__gt=Now())
        )
        .values_list("organization_id", flat=True)
        .get(key_hash=hashlib.sha256(key.encode()).digest(), revoked_at=None)
    )


@require_POST
def bulk_metadata(request: HttpRequest) -> JsonResponse:
    """Replace the metadata of the devices in the body."""
    try:
        organization_id = organization_of(request.headers.get("x-api-key", ""))
    except ApiKey.DoesNotExist:
        return JsonResponse({"error": "Invalid or missing API key"}, status=401)
    try:
        sent = {
            identifier.strip(): metadata
            for identifier, metadata in json.loads(request.body)["devices"].items()
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return JsonResponse({"error": "Invalid JSON payload"}, status=400)

    devices = Device.objects.filter(organization_id=organization_id)
    found = {
        device.identifier: device
        for device in devices.filter(identifier__in=sent).only("identifier")
    }
    now = timezone.now()
    for identifier, device in found.items():
        device.device_metadata = sent[identifier]
        device.updated_at = now
    devices.bulk_update(found.values(), ["device_metadata", "updated_at"])

    results = [
        {
            "identifier": identifier,
            "deviceId": str(found[identifier].id) if identifier in found else "",
            "status": "updated" if identifier in found else "not_found",
        }
        for identifier in sent
    ]
    return JsonResponse(
        {
            "success": True,
            "updated": len(found),
            "notFound": len(sent) - len(found),
            "results": results,
        }
    )


urlpatterns = [path("api/ext-v1/device/bulk-metadata", bulk_metadata)]
app = get_wsgi_application()

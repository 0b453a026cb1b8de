"""Counts as Prometheus reads them."""

from eyespot.cluster.serving.prometheus import Metrics


def test_text():
    metrics = Metrics()
    for status, seconds in ((200, 0.02), (200, 0.1), (503, 40.0)):
        metrics.answered(status, seconds)
    for size in (1, 3, 100):
        metrics.encoded(size)
    metrics.in_flight = 2
    lines = metrics.text().splitlines()
    for line in (
        'eyespot_requests_total{status="200"} 2',
        'eyespot_requests_total{status="503"} 1',
        'eyespot_request_seconds_bucket{le="0.01"} 0',
        'eyespot_request_seconds_bucket{le="0.1"} 2',
        'eyespot_request_seconds_bucket{le="10.0"} 2',
        'eyespot_request_seconds_bucket{le="+Inf"} 3',
        "eyespot_request_seconds_sum 40.12",
        "eyespot_request_seconds_count 3",
        'eyespot_batch_images_bucket{le="4.0"} 2',
        "eyespot_batch_images_count 3",
        "eyespot_in_flight 2",
    ):
        assert line in lines

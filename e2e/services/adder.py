"""A service written with flamepy.service.FlameInstance: Python objects in, Python objects out."""

from flamepy.service import FlameInstance

instance = FlameInstance()


@instance.entrypoint
def add(request):
    """The sum of the numbers, and how many there were."""
    numbers = request["numbers"]
    return {"sum": sum(numbers), "count": len(numbers)}


if __name__ == "__main__":
    instance.run()

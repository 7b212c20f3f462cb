"""A step that raises: the run fails, or the step is tried again, or the error becomes a value."""

from weftline import workflow


@workflow.step
def faulty_function() -> str:
    here = workflow.current()
    assert here is not None
    if here.attempt < 3:  # instead of chance, so that this file does the same each time
        raise RuntimeError(f"oops at attempt {here.attempt}")
    return "OK"


@workflow.step
def handle_errors(result: tuple[str | None, Exception | None]) -> str:
    # The exception is None on success.
    err = result[1]
    if err:
        return f"There was an error: {err}"
    return "OK"


# Without options the first error ends the run. What the step raised comes out of `run`.
failure = None
try:
    faulty_function.step().run()
except RuntimeError as error:
    failure = str(error)
print("the run failed:", failure)
assert failure == "oops at attempt 1"

# Tries up to three times before giving up.
r1 = faulty_function.options(max_retries=3).step()
tried = r1.run()
print("three tries:", tried)
assert tried == "OK"

# `handle_errors` receives a tuple of (result, exception).
r2 = faulty_function.options(catch_exceptions=True).step()
caught = handle_errors.step(r2).run()
print("caught:", caught)
assert caught == "There was an error: oops at attempt 1"

# Together: the error becomes a value when all tries are used up.
r3 = faulty_function.options(max_retries=2, catch_exceptions=True).step()
both = handle_errors.step(r3).run()
print("two tries, then caught:", both)
assert both == "There was an error: oops at attempt 2"


# The decorator takes the same options.
@workflow.step(max_retries=3, catch_exceptions=True)
def decorated() -> str:
    here = workflow.current()
    assert here is not None
    if here.attempt < 3:
        raise RuntimeError("oops")
    return "OK"


pair = decorated.step().run()
print("decorated:", pair)
assert pair == ("OK", None)

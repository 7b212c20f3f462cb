-- Whether any run holds an object, which is asked while all writers wait.
CREATE INDEX run_objects_by_hash ON run_objects (hash);

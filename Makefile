.PHONY: up test check bench lock
up:; ./bin/mh up
test:; ./bin/mh test
check:; ./bin/mh check
bench:; ./bin/mh bench
lock:; ./scripts/lock

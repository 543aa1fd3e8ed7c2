"""Three hundred orders, from a file to a receipt, while processes are killed: `make demo`.

`process` is the business process, and the one module to read; `report` is the nightly report. `orders_file`
reads the file; `outside`, `payments` and `warehouse` are the world that Holdfast does not own, and `confirmations` is
how its customers are heard, by Kafka; `kill` is the accident; `view` and `audit` are what one sees; `main`,
`platform_start` and `leftovers` begin and end it.
"""

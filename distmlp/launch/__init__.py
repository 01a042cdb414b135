"""`distmlp train trainer.devices=2` without a launcher: this process starts the ranks with torch's elastic agent.

The launching process composes and checks the configuration once and hands it over in a file. It watches the ranks,
passes a signal on to them, and says once which rank failed and why. Each part is a file: `plan` (how many ranks),
`handover` (what they are told), `ranks` (starting and watching them), `signals`, `verdict` (which failure to show),
`rank_side` (what a rank does for whoever launched it, torchrun included).
"""

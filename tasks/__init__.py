"""The Celery application: queues, messages and the tasks that embed."""

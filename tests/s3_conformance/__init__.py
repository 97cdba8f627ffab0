"""What every S3 server must do, whichever it is: the suite that our own is held to beside others.

A test module makes a fixture ``s3`` of `subject.S3` and imports the tests of all modules with
``*``. What is right is what the reference of the S3 API says.
"""
